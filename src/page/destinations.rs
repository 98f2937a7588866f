//! Destinations: their state and since when they are in it; pause, resume, retry now.

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
};
use futures_util::future::try_join_all;
use url::form_urlencoded;

use super::{
    charts,
    condition::Condition,
    context::{Answer, Page, Refusal, Tab, html, to},
    filter::Filter,
    request,
    state::Shared,
};
use crate::{
    outbox::{Criteria, DestinationCursor, DestinationQuery, DestinationSummary},
    recent,
    select::{self, Action, ActionLimits, Selection},
};

/// Number of destinations on a page.
const PAGE: usize = 50;

struct Row {
    of: Condition,
    /// The filter for its callbacks.
    filter: Filter,
    /// The last hour.
    chart: String,
    delivered: u64,
    failed_attempts: u64,
}

impl Row {
    /// The list of its callbacks in a state, or in all states if that is empty.
    fn list(&self, page: &Page, state: &str) -> String {
        page.link(self.filter.and_state(state).list())
    }
}

#[derive(Template)]
#[template(path = "destinations.html", config = "src/page/askama.toml")]
struct View<'a> {
    page: &'a Page,
    host: &'a str,
    rows: Vec<Row>,
    next: Option<String>,
    done: Option<String>,
    /// Since when attempts are counted.
    began: String,
}

/// The list of the destinations whose names contain this text, from `/ui/`.
pub(super) fn destinations_with(part: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    format!("destinations?{}", query.append_pair("host", part).finish())
}

async fn row(shared: &Shared, page: &Page, summary: DestinationSummary) -> Result<Row, Refusal> {
    let minutes = recent::minutes_of(&summary.destination, 60, page.now);
    let of = Condition::of(shared, page, summary).await?;
    let it = &of.it;
    let bars: Vec<_> = minutes.iter().map(|it| [it.delivered, it.failed]).collect();
    let label = format!("{}: {}", it.destination, page.words.last_hour);
    Ok(Row {
        filter: Filter::only("destination", &it.destination),
        chart: charts::bars(&bars, ["good", "bad"], &label),
        delivered: minutes.iter().map(|it| u64::from(it.delivered)).sum(),
        failed_attempts: minutes.iter().map(|it| u64::from(it.failed)).sum(),
        of,
    })
}

/// The list, those that do not work first.
pub(super) async fn list(State(shared): State<Shared>, request: Request) -> Answer {
    let known = ["host", "done", "due"];
    let (page, fields) = request::query(&shared, &request, Tab::Destinations, &known)?;
    let cursor = &fields.filter.cursor;
    let cursor = (!cursor.is_empty()).then(|| cursor.parse::<DestinationCursor>()).transpose();
    let cursor = cursor.map_err(|error| page.invalid(&error))?;
    let host = fields.get("host");
    let part = (!host.is_empty()).then(|| host.to_owned());
    let idle = recent::destinations();
    let query = DestinationQuery { cursor, part, idle, limit: PAGE, destination: None };
    let found = shared.api.outbox.destinations(query, page.now).await;
    let found = found.map_err(|error| page.failed(&error))?;
    let done = match fields.get("done") {
        "pause" => Some(page.words.paused_done.to_owned()),
        "resume" => Some(page.words.resumed_done.to_owned()),
        "retry-now" => {
            Some(format!("{} {}", page.words.retried, page.number(fields.number("due"))))
        }
        _ => None,
    };
    // Concurrently, because each may wait for a commit.
    let rows = found.destinations.into_iter().map(|it| row(&shared, &page, it));
    let view = View {
        rows: try_join_all(rows).await?,
        began: page.started_at.to_string(),
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
    Ok(html(StatusCode::OK, &view))
}

/// Pauses or resumes a destination, or retries its callbacks now, and redirects to the list.
pub(super) async fn act(
    State(shared): State<Shared>,
    Path(action): Path<String>,
    request: Request,
) -> Answer {
    let (page, fields) = request::form(&shared, request, Tab::Destinations, &["host"]).await?;
    let destination = select::parse_callable(&fields.filter.destination);
    let destination = destination.map_err(|error| page.invalid(&error))?;
    let outbox = &*shared.api.outbox;
    let done = match action.as_str() {
        "pause" | "resume" => {
            let paused = action == "pause";
            select::pause(outbox, &destination, paused, page.now).await.map(|_| String::new())
        }
        "retry-now" => {
            let criteria = Criteria { destination: Some(destination), ..Criteria::default() };
            let selection = Selection { ids: Vec::new(), criteria };
            let acted = select::act(outbox, Action::RetryNow, &selection, ActionLimits::default());
            acted.await.map(|acted| format!("&due={}", acted.changed))
        }
        _ => return Err(page.refusal(StatusCode::NOT_FOUND, page.words.no_such_page)),
    };
    let done = done.map_err(|error| page.failed(&error))?;
    let host = form_urlencoded::byte_serialize(fields.get("host").as_bytes()).collect::<String>();
    Ok(to(&page, &format!("destinations?done={action}{done}&host={host}")))
}
