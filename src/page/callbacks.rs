//! Callbacks: search, list, and one with its attempts.

use std::sync::atomic::Ordering;

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
};

use super::{
    condition::Condition,
    context::{Answer, Page, Refusal, Tab, html, to},
    destinations::destinations_with,
    filter::{Filter, FilterError, Invalid},
    matches::Matches,
    request::{self, Fields},
    state::Shared,
};
use crate::{
    api::view::{CallbackView, Terms},
    callback::{Body, CallbackId, Destination},
    clock::Timestamp,
    outbox::{
        Attempt, CallbackStatus, DestinationQuery, DestinationSummary, ErrorKind, ListedState,
        OutboxError, Query, StateName,
    },
};

/// A callback in a list.
pub(super) struct Row {
    pub(super) it: CallbackView,
    pub(super) link: String,
    /// What happens next, in words; the time is shown beside it.
    pub(super) next: &'static str,
    pub(super) next_at: Option<String>,
}

/// The results of an action, in the query of the view to which it redirects.
const DONE: [&str; 3] = ["done", "matched", "changed"];

impl Row {
    pub(super) fn new(status: &CallbackStatus, terms: &Terms, page: &Page) -> Self {
        let it = CallbackView::new(status, terms);
        let (next, at) = next(status, &it, page);
        let link = page.link(format!("callbacks/{}", it.id));
        Self { link, next, next_at: at.map(|at| at.to_string()), it }
    }

    /// Whether a list shows the last error.
    fn shows_error(&self) -> bool {
        self.it.last_error.is_some() && self.it.state != StateName::Delivered
    }
}

#[derive(Template)]
#[template(path = "callbacks.html", config = "src/page/askama.toml")]
struct ListView<'a> {
    page: &'a Page,
    filter: &'a Filter,
    /// The state of the filter.
    listed: Option<ListedState>,
    /// The invalid field, if there is one; then nothing is listed.
    invalid: Option<Invalid>,
    kinds: [&'static str; 11],
    rows: Vec<Row>,
    matches: Option<Matches>,
    /// The next page.
    next: Option<String>,
    done: Option<String>,
}

impl ListView<'_> {
    /// Whether this field is the invalid one.
    fn is_bad(&self, field: &str) -> bool {
        self.invalid.as_ref().is_some_and(|it| it.field == field)
    }

    /// The fields for times: name, label and value.
    fn times(&self) -> [(&'static str, &'static str, &str); 4] {
        let (filter, words) = (self.filter, self.page.words);
        [
            ("endedSince", words.ended_since, &filter.ended_since),
            ("endedUntil", words.ended_until, &filter.ended_until),
            ("since", words.since, &filter.since),
            ("until", words.until, &filter.until),
        ]
    }

    /// Whether the less common filters are shown.
    fn has_more_filters(&self) -> bool {
        let common = ["state", "destination", "errorKind"];
        self.filter.fields().iter().any(|(name, _)| !common.contains(name))
    }

    /// The states of the form: value and label.
    fn states(&self) -> [(&'static str, String); 6] {
        ListedState::NAMES.map(|name| (name, self.page.words.of_state(name)))
    }

    /// Whether the list may have callbacks in this state.
    fn may_have(&self, state: StateName) -> bool {
        self.listed.is_none_or(|listed| listed.state() == state)
    }

    /// The heading of the column with the next step of pending callbacks and the end of others.
    fn next_or_ended(&self) -> &'static str {
        let words = self.page.words;
        match self.listed.map(ListedState::state) {
            Some(StateName::Pending) => words.next,
            None => words.next_or_ended,
            Some(StateName::Delivered | StateName::Failed) => words.ended_at,
        }
    }
}

/// The query of a list; otherwise the page with the error, or the form with the invalid field.
async fn query(
    shared: &Shared,
    page: &Page,
    filter: &mut Filter,
) -> Result<Result<Query, Invalid>, Refusal> {
    let completed = filter.complete(&*shared.api.outbox, page).await;
    match completed.and_then(|()| Ok(filter.query(page.now)?)) {
        Ok(query) => Ok(Ok(query)),
        Err(FilterError::Several(names)) => {
            let why = format!("{} {names}", page.words.several_hosts);
            Ok(Err(Invalid { field: "destination", why }))
        }
        Err(FilterError::Select(error)) => match filter.invalid(&error, page.words) {
            Some(invalid) => Ok(Err(invalid)),
            None => Err(page.invalid(&error)),
        },
        Err(error) => Err(error.refusal(page)),
    }
}

/// A list, by the filter in the URL.
pub(super) async fn list(State(shared): State<Shared>, request: Request) -> Answer {
    let (page, mut fields) = request::query(&shared, &request, Tab::Callbacks, &DONE)?;
    let kinds = ErrorKind::ALL.map(ErrorKind::as_str);
    let query = match query(&shared, &page, &mut fields.filter).await? {
        Ok(query) => query,
        Err(invalid) => {
            let view = ListView {
                invalid: Some(invalid),
                rows: Vec::new(),
                matches: None,
                next: None,
                kinds,
                listed: None,
                done: None,
                filter: &fields.filter,
                page: &page,
            };
            return Ok(html(StatusCode::BAD_REQUEST, &view));
        }
    };
    let outbox = &*shared.api.outbox;
    let found = outbox.list(query.clone()).await.map_err(|error| page.failed(&error))?;
    let matches = Matches::of(outbox, query, &found).await.map_err(|error| page.failed(&error))?;
    let row = |it| Row::new(it, &shared.api.terms.load(), &page);
    let more = |cursor: CallbackId| {
        let query = fields.filter.query_string();
        let and = if query.is_empty() { "" } else { "&" };
        page.link(format!("callbacks?{query}{and}cursor={cursor}"))
    };
    let view = ListView {
        rows: found.callbacks.iter().map(row).collect(),
        next: found.next.map(more),
        invalid: None,
        matches: (matches.count > 0).then_some(matches),
        kinds,
        listed: fields.filter.state().ok().flatten(),
        done: done(&page, &fields),
        filter: &fields.filter,
        page: &page,
    };
    Ok(html(StatusCode::OK, &view))
}

/// What happens next to a callback, in words, and when.
fn next(
    status: &CallbackStatus,
    it: &CallbackView,
    page: &Page,
) -> (&'static str, Option<Timestamp>) {
    let words = page.words;
    let own = it.next_attempt_at.filter(|at| *at > page.now);
    match (it.state, own) {
        _ if it.stuck => (words.next_stuck, None),
        _ if it.in_flight => (words.next_in_flight, None),
        (StateName::Delivered | StateName::Failed, _) => (words.next_removed, it.purge_at),
        _ if it.waiting_for.is_some() => (words.next_waits, None),
        _ if it.paused => (words.next_paused, None),
        // It must wait for both. It is not known whether this callback will be the probe.
        (StateName::Pending, own) => match (status.open, status.hold_until, own) {
            (Some(open), _, Some(own)) => {
                (words.next_open_retry, Some(own.max(open.next_probe_at)))
            }
            (Some(_), _, None) => (words.next_open, None),
            (None, Some(hold), own) if own.is_none_or(|own| own <= hold) => {
                (words.next_held, Some(hold))
            }
            (None, _, Some(own)) => (words.next_retry, Some(own)),
            (None, _, None) => (words.next_due, None),
        },
    }
}

/// The result of the action that redirected here.
fn done(page: &Page, fields: &Fields) -> Option<String> {
    let what = match fields.get("done") {
        "replay" => page.words.replayed,
        "cancel" => page.words.cancelled,
        "retry-now" => page.words.retried,
        _ => return None,
    };
    let number = |name| page.number(fields.number(name));
    let (changed, matched) = (number("changed"), number("matched"));
    Some(format!("{what} {changed} {} {matched}", page.words.of))
}

/// The search: redirects from a callback id, a job id, a job's directory, or a host to a view.
pub(super) async fn search(State(shared): State<Shared>, request: Request) -> Answer {
    let (page, fields) = request::query(&shared, &request, Tab::None, &["q"])?;
    let place = place(&shared, &page, fields.get("q")).await;
    Ok(to(&page, &place.map_err(|error| page.failed(&error))?))
}

async fn place(shared: &Shared, page: &Page, wanted: &str) -> Result<String, OutboxError> {
    let outbox = &shared.api.outbox;
    if wanted.is_empty() {
        return Ok("callbacks".into());
    }
    if let Ok(id) = wanted.parse::<CallbackId>()
        && outbox.get(id).await?.is_some()
    {
        return Ok(format!("callbacks/{id}"));
    }
    for name in ["jobIdFs", "jobId"] {
        let filter = Filter::only(name, wanted);
        let Ok(query) = filter.query(page.now) else { continue };
        if !outbox.list(query).await?.callbacks.is_empty() {
            return Ok(filter.list());
        }
    }
    let filter = Filter::only("destination", wanted);
    if let Ok(selection) = filter.selection(page.now)
        && let Some(destination) = selection.criteria.destination
    {
        let query = DestinationQuery {
            destination: Some(destination),
            limit: 1,
            ..DestinationQuery::default()
        };
        if !outbox.destinations(query, page.now).await?.destinations.is_empty() {
            return Ok(filter.list());
        }
    }
    Ok(destinations_with(wanted))
}

#[derive(Template)]
#[template(path = "callback.html", config = "src/page/askama.toml")]
struct OneView<'a> {
    page: &'a Page,
    row: Row,
    done: Option<String>,
    attempts: Vec<Attempt>,
    body: String,
    headers: Vec<(&'static str, String)>,
    curl: String,
    /// Whether it is sent to a receiver, and not to the broker.
    is_request: bool,
    tracker: Option<String>,
    job: String,
    directory: String,
    waiting_for: Option<String>,
    /// The destination, and its row in the list of destinations.
    destination: Option<(Condition, String)>,
}

/// One callback.
pub(super) async fn one(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let (page, fields) = request::query(&shared, &request, Tab::Callbacks, &DONE)?;
    let words = page.words;
    let id = id.parse::<CallbackId>();
    let id = id.map_err(|_| page.refusal(StatusCode::BAD_REQUEST, words.invalid_id))?;
    let detail = shared.api.outbox.get(id).await.map_err(|error| page.failed(&error))?;
    let detail =
        detail.ok_or_else(|| page.refusal(StatusCode::NOT_FOUND, words.no_such_callback))?;
    let row = Row::new(&detail.status, &shared.api.terms.load(), &page);
    let is_request = !detail.status.record.destination.is_own();
    let destination = match &detail.status.record.destination {
        none if none.is_none() => None,
        some => {
            let summary = summary_of(&shared, &page, some).await?;
            let condition = Condition::of(&shared, &page, summary).await?;
            Some((condition, page.link(destinations_with(some.as_str()))))
        }
    };
    let view = CallbackView::detailed(detail, &shared.api.terms.load());
    let body = view.body.as_ref().map(|body| String::from_utf8_lossy(&body.to_json()).into_owned());
    let body = body.unwrap_or_default();
    let headers = headers(&view, shared.signed.load(Ordering::Relaxed));
    let tracker = view.body.as_ref().and_then(tracker);
    let of = |name: &str, value: &str| page.link(Filter::only(name, value).list());
    let view = OneView {
        curl: curl(&view.url, &headers, &body),
        headers,
        body,
        is_request,
        tracker,
        job: of("jobId", &view.job_id),
        directory: of("jobIdFs", &view.job_id_fs),
        destination,
        waiting_for: view.waiting_for.as_ref().map(|id| page.link(format!("callbacks/{id}"))),
        attempts: view.attempts.clone().unwrap_or_default(),
        row,
        done: done(&page, &fields),
        page: &page,
    };
    Ok(html(StatusCode::OK, &view))
}

/// One destination, whether it has callbacks or not.
async fn summary_of(
    shared: &Shared,
    page: &Page,
    destination: &Destination,
) -> Result<DestinationSummary, Refusal> {
    let query = DestinationQuery {
        destination: Some(destination.clone()),
        limit: 1,
        ..DestinationQuery::default()
    };
    let found = shared.api.outbox.destinations(query, page.now).await;
    let found = found.map_err(|error| page.failed(&error))?.destinations.pop();
    Ok(found.unwrap_or_else(|| DestinationSummary::idle(destination.clone())))
}

/// The link to DPF Tracker, if it is one that a browser may follow.
fn tracker(body: &Body) -> Option<String> {
    let url = body.dpf_tracker_url.as_ref()?;
    let parsed = url::Url::parse(url).ok()?;
    matches!(parsed.scheme(), "http" | "https").then(|| parsed.to_string())
}

/// The headers of the request as it goes out, without secrets.
fn headers(it: &CallbackView, signed: bool) -> Vec<(&'static str, String)> {
    let at =
        it.attempts.as_ref().and_then(|all| all.last()).map_or(it.created_at, |it| it.started_at);
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("user-agent", concat!("seal-dpf-urlcallback/", env!("CARGO_PKG_VERSION")).to_owned()),
        ("webhook-id", it.id.clone()),
        ("webhook-timestamp", at.as_secs().to_string()),
        ("callback-attempt", it.attempt_count.max(1).to_string()),
    ];
    if signed {
        headers.push(("webhook-signature", "***".to_owned()));
    }
    headers
}

/// A command that makes the same request, for a shell.
fn curl(url: &str, headers: &[(&str, String)], body: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let headers =
        headers.iter().map(|(name, value)| format!(" -H {}", quoted(&format!("{name}: {value}"))));
    let headers: String = headers.collect();
    format!("curl -X PUT {}{headers} --data-raw {}", quoted(url), quoted(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_quotes_what_a_shell_would_interpret() {
        let command = curl("http://h/?a=$(b)'", &[("x", "y".to_owned())], "{\"a\":\"it's\"}");
        let expected =
            r#"curl -X PUT 'http://h/?a=$(b)'\''' -H 'x: y' --data-raw '{"a":"it'\''s"}'"#;
        assert_eq!(command, expected);
    }
}
