//! The tables of `inspect-queue`.

use std::time::Duration;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, presets};

use super::{
    screen::{Screen, Tone},
    text,
};
use crate::{
    api::{
        destination_view::{DestinationState, DestinationView},
        view::{CallbackView, QueueView},
    },
    clock::Timestamp,
    outbox::{Instance, StateName},
};

/// Maximum number of destinations shown.
const DESTINATIONS: usize = 10;

/// From this width on, a callback takes one line; below, the error is on a second one.
const WIDE: u16 = 140;

/// A table without borders. `flexible` columns shrink to fit a terminal, and `numbers` are aligned
/// right.
fn new(header: &[&str], flexible: &[&str], numbers: &[&str], screen: Screen) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_truncation_indicator("…");
    if let Some(width) = screen.width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(row(header.iter().map(ToString::to_string)));
    let last = header.len() - 1;
    for (at, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, if at == last { 0 } else { 2 }));
            if !flexible.contains(name) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
            if numbers.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

fn row(cells: impl IntoIterator<Item = String>) -> Row {
    let mut row = Row::from(cells.into_iter().collect::<Vec<_>>());
    row.max_height(1);
    row
}

/// The counts above the tables.
pub(super) fn head(queue: &QueueView, screen: Screen, now: Timestamp) -> Vec<String> {
    let counts = [queue.pending, queue.delivered, queue.failed].map(|count| count.to_string());
    let width = counts.iter().map(String::len).max().unwrap_or_default();
    let longest = match queue.due {
        0 => String::new(),
        _ => format!(
            " (the longest for {})",
            text::duration(Duration::from_secs(queue.oldest_due_seconds))
        ),
    };
    let pending = format!(
        "due {}{longest}, waiting {}, in flight {}",
        queue.due, queue.waiting, queue.in_flight
    );
    let purge = |at: Option<Timestamp>| {
        at.map_or_else(String::new, |at| format!("the next is removed {}", text::relative(at, now)))
    };
    let details = [pending, purge(queue.delivered_purge_at), purge(queue.failed_purge_at)];
    let tones = [Tone::Plain, Tone::Plain, if queue.failed > 0 { Tone::Bad } else { Tone::Plain }];
    let paused = (queue.paused_count > 0).then(|| {
        let text = format!("paused     {:>width$}  destinations", queue.paused_count);
        screen.line(Tone::Warning, &text)
    });
    let counted =
        ["pending", "delivered", "failed"].iter().zip(counts).zip(details).zip(tones).map(
            |(((name, count), detail), tone)| {
                screen.line(tone, &format!("{name:<9}  {count:>width$}  {detail}"))
            },
        );
    paused.into_iter().chain(counted).collect()
}

/// The instances that share the queue, a line for each; nothing with the embedded store.
pub(super) fn instances(queue: &QueueView, screen: Screen, now: Timestamp) -> Vec<String> {
    let line = |it: &Instance| {
        let this = if it.is_self { " (this one)" } else { "" };
        let shards = format!("instance   {}{this}, {} shards", it.name, it.shards);
        if it.is_alive {
            screen.line(Tone::Plain, &shards)
        } else {
            let seen = text::relative(it.seen_at, now);
            screen.line(Tone::Bad, &format!("{shards}, not connected; last seen {seen}"))
        }
    };
    queue.instances.iter().map(line).collect()
}

/// State of a destination, and for how long: paused, open, held or ok, in this precedence.
pub(super) fn destination_state(it: &DestinationView, now: Timestamp) -> String {
    if let Some(at) = it.paused_at {
        return format!("paused for {}", text::duration(now.since(at)));
    }
    let open = it.open_since.map(|since| format!("open for {}", text::duration(now.since(since))));
    match (open, it.next_probe_at, it.hold_until) {
        (Some(open), Some(at), _) if at > now => {
            format!("{open}, probe {}", text::relative(at, now))
        }
        (Some(open), ..) => format!("{open}, probing"),
        (None, _, Some(until)) => {
            format!("held, continues {}", text::relative(until, now))
        }
        (None, ..) => "ok".into(),
    }
}

/// The destinations: those that receive nothing first, then by number of pending callbacks.
pub(super) fn destinations(queue: &QueueView, screen: Screen, now: Timestamp) -> Vec<String> {
    if queue.destinations.is_empty() {
        return Vec::new();
    }
    let mut all: Vec<_> = queue.destinations.iter().collect();
    all.sort_by_key(|it| (it.paused_at.is_none(), it.state == DestinationState::Ok));
    all.truncate(DESTINATIONS);
    let numbers = ["PENDING", "IN FLIGHT", "FAILED"];
    let header = ["DESTINATION", "PENDING", "IN FLIGHT", "FAILED", "STATE"];
    let mut table = new(&header, &["DESTINATION"], &numbers, screen);
    for it in &all {
        table.add_row(row([
            it.destination.clone(),
            it.pending.to_string(),
            it.in_flight.to_string(),
            it.failed.to_string(),
            destination_state(it, now),
        ]));
    }
    let tones = all.iter().map(|it| match it.state {
        DestinationState::Ok => Tone::Plain,
        _ => Tone::Warning,
    });
    let mut lines: Vec<_> = std::iter::once(Tone::Head)
        .chain(tones)
        .zip(table.lines())
        .map(|(tone, line)| screen.line(tone, &line))
        .collect();
    let more = queue.destination_count.saturating_sub(all.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

/// State of a callback's destination.
pub(super) fn destination_of<'a>(
    it: &CallbackView,
    queue: &'a QueueView,
) -> Option<&'a DestinationView> {
    queue.destinations.iter().find(|known| Some(&known.destination) == it.destination.as_ref())
}

/// The colour of a callback's line.
pub(super) fn tone(it: &CallbackView) -> Tone {
    match (it.state, &it.last_error) {
        (StateName::Failed, _) => Tone::Bad,
        (StateName::Pending, Some(_)) => Tone::Warning,
        _ => Tone::Plain,
    }
}

/// The text in the NEXT column, and the time that it names.
pub(super) fn next(
    it: &CallbackView,
    destination: Option<&DestinationView>,
    now: Timestamp,
) -> (String, Option<Timestamp>) {
    let at = |what: &str, at| (format!("{what}{}", text::relative(at, now)), Some(at));
    let only = |what: &str| (what.to_owned(), None);
    if it.state != StateName::Pending {
        return match it.purge_at {
            Some(purge) if purge > now => at("removed ", purge),
            Some(_) => only("is removed"),
            None => only(""),
        };
    }
    if it.in_flight {
        return only("is being sent");
    }
    if it.paused {
        return only("paused");
    }
    if it.waiting_for.is_some() {
        return only("waits");
    }
    if it.stuck {
        return only("stuck");
    }
    let own = it.next_attempt_at.filter(|at| *at > now);
    let hold = destination.and_then(|it| it.hold_until).filter(|until| *until > now);
    match (destination.filter(|it| it.open), hold, own) {
        // It must wait for both. It is not known which callback will be the probe.
        (Some(open), _, Some(own)) => {
            at("down, earliest ", open.next_probe_at.map_or(own, |probe| probe.max(own)))
        }
        (Some(_), _, None) => only("destination down"),
        (None, Some(hold), own) if own.is_none_or(|own| own <= hold) => at("held, ", hold),
        (None, _, Some(own)) => at("", own),
        (None, _, None) => only("due"),
    }
}

/// One page of callbacks.
pub(super) fn callbacks(
    callbacks: &[CallbackView],
    queue: &QueueView,
    screen: Screen,
    now: Timestamp,
    with_header: bool,
) -> Vec<String> {
    let wide = screen.width.is_none_or(|width| width >= WIDE);
    let (header, flexible): (&[&str], &[&str]) = if wide {
        let header = &[
            "ID",
            "STATE",
            "NEXT",
            "JOB",
            "JOB STATE",
            "ACCEPTED",
            "ATTEMPTS",
            "DESTINATION",
            "LAST ERROR",
        ];
        (header, &["JOB", "DESTINATION", "LAST ERROR"])
    } else {
        (&["ID", "STATE", "NEXT", "JOB", "ACCEPTED"], &["JOB"])
    };
    let mut table = new(header, flexible, &["ATTEMPTS"], screen);
    for it in callbacks {
        let destination = destination_of(it, queue);
        let mut cells = vec![
            it.id.clone(),
            it.state.as_str().into(),
            next(it, destination, now).0,
            text::one_line(&it.job_id),
        ];
        if wide {
            cells.push(it.job_state.as_str().into());
        }
        cells.push(text::relative(it.created_at, now));
        if wide {
            cells.push(it.attempt_count.to_string());
            cells.push(it.destination.clone().unwrap_or_else(|| "-".into()));
            cells.push(it.last_error.as_ref().map_or_else(|| "-".into(), text::failure));
        }
        table.add_row(row(cells));
    }
    let mut lines = table.lines();
    let header = lines.next().map(|line| screen.line(Tone::Head, &line));
    let mut shown: Vec<_> = header.into_iter().filter(|_| with_header).collect();
    for (it, line) in callbacks.iter().zip(lines) {
        let tone = tone(it);
        shown.push(screen.line(tone, &line));
        if !wide {
            shown.push(screen.line(tone, &second_line(it)));
        }
    }
    shown
}

/// The second line of a callback on a narrow terminal.
fn second_line(it: &CallbackView) -> String {
    let mut line = format!("  {}", it.job_state.as_str());
    if let Some(destination) = &it.destination {
        line.push_str(" to ");
        line.push_str(destination);
    }
    match it.attempt_count {
        0 => {}
        1 => line.push_str(", 1 attempt"),
        n => line.extend([", ", &n.to_string(), " attempts"]),
    }
    if let Some(error) = &it.last_error {
        line.push_str(", ");
        line.push_str(&text::failure(error));
    }
    line
}
