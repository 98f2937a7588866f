//! One callback with its body and its attempts.

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets,
};

use super::{
    screen::{Screen, Tone},
    table, text,
};
use crate::{
    api::{
        destination_view::DestinationView,
        view::{CallbackView, QueueView},
    },
    clock::Timestamp,
    outbox::{Attempt, StateName},
};

/// All details of a callback as text lines.
pub(super) fn lines(
    it: &CallbackView,
    queue: &QueueView,
    screen: Screen,
    now: Timestamp,
) -> Vec<String> {
    let destination = table::destination_of(it, queue);
    let tone = if it.state == StateName::Delivered { Tone::Good } else { table::tone(it) };
    let when = |at| format!("{} ({})", text::moment(at), text::relative(at, now));
    let mut lines = Vec::new();
    let mut field = |tone, name: &str, value: &str| lines.extend(field(screen, tone, name, value));
    field(Tone::Head, "callback", &it.id);
    field(tone, "state", &state(it, destination, now));
    if let Some(error) = &it.last_error {
        field(tone, "last error", &text::failure(error));
    }
    let job = format!("{} ({})", text::one_line(&it.job_id), text::one_line(&it.job_id_fs));
    field(Tone::Plain, "job", &job);
    field(Tone::Plain, "url", &text::one_line(&it.url));
    if let Some(destination) = destination {
        let state = table::destination_state(destination, now);
        field(Tone::Plain, "destination", &format!("{}, {state}", destination.destination));
    }
    field(Tone::Plain, "accepted", &when(it.created_at));
    if it.replays > 0 {
        field(Tone::Plain, "replayed", &times(it.replays));
    }
    for (name, at) in
        [("ended", it.finished_at), ("expires", it.expires_at), ("removed", it.purge_at)]
    {
        if let Some(at) = at {
            field(Tone::Plain, name, &when(at));
        }
    }
    if let Some(body) = &it.body {
        // A body contains only strings, so it can always be serialized.
        let json = serde_json::to_string(body).unwrap_or_default();
        field(Tone::Plain, "body", &text::one_line(&json));
    }
    match it.attempts.as_deref().unwrap_or_default() {
        [] => field(Tone::Plain, "attempts", "none"),
        attempts => {
            lines.push(String::new());
            lines.extend(timeline(attempts, screen));
        }
    }
    lines
}

/// A name and its value; a long value is wrapped and indented.
fn field(screen: Screen, tone: Tone, name: &str, value: &str) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).add_row([name, value]);
    if let Some(width) = screen.width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 0));
    }
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::Absolute(Width::Fixed(13)));
    }
    table.lines().map(|line| screen.line(tone, &line)).collect()
}

fn times(n: u32) -> String {
    if n == 1 { "once".into() } else { format!("{n} times") }
}

fn state(it: &CallbackView, destination: Option<&DestinationView>, now: Timestamp) -> String {
    match (it.state, &it.waiting_for) {
        (StateName::Pending, Some(other)) => {
            format!("pending, waits for {other} of the same job to end")
        }
        (StateName::Pending, None) => {
            let (next, at) = table::next(it, destination, now);
            let at = at.map_or_else(String::new, |at| format!(" ({})", text::moment(at)));
            format!("pending, {next}{at}")
        }
        (state, _) => state.as_str().into(),
    }
}

fn timeline(attempts: &[Attempt], screen: Screen) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["ATTEMPT", "STARTED", "TOOK", "FROM", "RESULT"]);
    for it in attempts {
        let result = match (&it.error, it.status) {
            (Some(error), _) => text::failure(error),
            (None, Some(status)) => format!("{status}, delivered"),
            (None, None) => "delivered".into(),
        };
        table.add_row(Row::from([
            it.number.to_string(),
            it.started_at.to_string().replace('T', " ").replace('Z', ""),
            format!("{} ms", it.duration_ms),
            it.peer.clone().unwrap_or_else(|| "-".into()),
            result,
        ]));
    }
    for at in 0..5 {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
            if at == 0 || at == 2 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut rows = table.lines();
    let mut lines: Vec<_> =
        rows.next().map(|line| screen.line(Tone::Head, &line)).into_iter().collect();
    for (it, line) in attempts.iter().zip(rows) {
        let tone = if it.error.is_some() { Tone::Warning } else { Tone::Good };
        lines.push(screen.line(tone, &line));
        let excerpt = it.response_excerpt.as_deref().map(text::one_line).unwrap_or_default();
        if !excerpt.trim().is_empty() {
            lines.push(screen.line(Tone::Plain, &format!("         response: {}", excerpt.trim())));
        }
    }
    lines
}
