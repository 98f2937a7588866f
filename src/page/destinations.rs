//! Destinations: which ones work, and since when they do not; pause, resume, retry now.

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
    response::Response,
};
use url::form_urlencoded;

use super::{
    charts,
    context::{Page, Tab, failed, html, refused, to},
    request::Fields,
    state::Shared,
};
use crate::{
    api::destination_view::{DestinationState, DestinationView},
    callback::Destination,
    outbox::DestinationQuery,
    recent,
    select::{self, Action, ActionLimits, Selection},
};

/// Destinations on a page.
const PAGE: usize = 50;

struct Row {
    it: DestinationView,
    callbacks: String,
    /// The last hour.
    chart: String,
    delivered: u64,
    failed_attempts: u64,
}

#[derive(Template)]
#[template(path = "destinations.html", config = "src/page/askama.toml")]
struct View<'a> {
    page: &'a Page,
    host: &'a str,
    rows: Vec<Row>,
    next: Option<String>,
    done: Option<String>,
}

fn row(page: &Page, it: DestinationView) -> Row {
    let minutes = Destination::parse(&it.destination)
        .map(|destination| recent::minutes_of(&destination, 60, page.now))
        .unwrap_or_default();
    let bars: Vec<_> = minutes.iter().map(|it| [it.delivered, it.failed]).collect();
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("destination", &it.destination)
        .finish();
    let label = format!("{}: {}", it.destination, page.words.last_hour);
    Row {
        callbacks: page.link(format!("callbacks?{query}")),
        chart: charts::bars(&bars, ["good", "bad"], &label),
        delivered: minutes.iter().map(|it| u64::from(it.delivered)).sum(),
        failed_attempts: minutes.iter().map(|it| u64::from(it.failed)).sum(),
        it,
    }
}

/// The list, those that do not work first.
pub(super) async fn list(State(shared): State<Shared>, request: Request) -> Response {
    let page = Page::of(&shared, &request).on(Tab::Destinations);
    let fields = match Fields::of_query(&request, &page, &["host", "done", "due"]) {
        Ok(fields) => fields,
        Err(response) => return *response,
    };
    let cursor = &fields.filter.cursor;
    let cursor = match (!cursor.is_empty()).then(|| cursor.parse()).transpose() {
        Ok(cursor) => cursor,
        Err(error) => {
            let error: crate::outbox::ParseCursorError = error;
            return refused(&page, StatusCode::BAD_REQUEST, &error.to_string());
        }
    };
    let host = fields.get("host");
    let part = (!host.is_empty()).then(|| host.to_owned());
    let query = DestinationQuery { cursor, part, limit: PAGE, destination: None };
    let found = match shared.api.outbox.destinations(query, page.now).await {
        Ok(found) => found,
        Err(error) => return failed(&page, &error),
    };
    let done = match fields.get("done") {
        "pause" => Some(page.words.paused_done.to_owned()),
        "resume" => Some(page.words.resumed_done.to_owned()),
        "retry-now" => {
            Some(format!("{} {}", page.words.retried, fields.get("due").parse().unwrap_or(0_u64)))
        }
        _ => None,
    };
    let view = View {
        rows: found.destinations.into_iter().map(|it| row(&page, it.into())).collect(),
        next: found.next.map(|cursor| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("cursor", &cursor.to_string());
            if !host.is_empty() {
                query.append_pair("host", host);
            }
            page.link(format!("destinations?{}", query.finish()))
        }),
        host,
        done,
        page: &page,
    };
    html(StatusCode::OK, &view)
}

/// Pauses or resumes a destination, or retries its callbacks now, and leads back to the list.
pub(super) async fn act(
    State(shared): State<Shared>,
    Path(action): Path<String>,
    request: Request,
) -> Response {
    let page = Page::of(&shared, &request).on(Tab::Destinations);
    let fields = match Fields::of_form(request, &page, &["host"]).await {
        Ok(fields) => fields,
        Err(response) => return *response,
    };
    let destination = match select::parse_callable(&fields.filter.destination) {
        Ok(destination) => destination,
        Err(error) => return refused(&page, StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let outbox = &*shared.api.outbox;
    let done = match action.as_str() {
        "pause" | "resume" => {
            let paused = action == "pause";
            select::pause(outbox, &destination, paused, page.now).await.map(|_| String::new())
        }
        "retry-now" => {
            let selection = Selection { destination: Some(destination), ..Selection::default() };
            let acted = select::act(outbox, Action::RetryNow, &selection, ActionLimits::default());
            acted.await.map(|acted| format!("&due={}", acted.changed))
        }
        _ => return refused(&page, StatusCode::NOT_FOUND, page.words.no_such_page),
    };
    let done = match done {
        Ok(done) => done,
        Err(error) => return failed(&page, &error),
    };
    let host = form_urlencoded::byte_serialize(fields.get("host").as_bytes()).collect::<String>();
    to(&page, &format!("destinations?done={action}{done}&host={host}"))
}
