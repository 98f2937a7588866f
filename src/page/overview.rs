//! The first view: what is stuck, and how much is going on.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::{Request, State},
    http::StatusCode,
};

use super::{
    callbacks::Row,
    charts,
    context::{Answer, Page, Tab, html},
    filter::Filter,
    state::Shared,
};
use crate::{
    api::{
        destination_view::{DestinationState, DestinationView},
        view::QueueView,
    },
    outbox::{OVERDUE, Query, StateName},
    recent::{self, Minute},
};

/// Failed callbacks on this view.
const FAILED: usize = 8;

/// Destinations on this view.
const DESTINATIONS: usize = 8;

/// Sums of a stretch of time, and its chart.
pub(super) struct Throughput {
    pub(super) label: &'static str,
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) chart: String,
}

impl Throughput {
    /// Of these minutes, so many of which share a bar.
    pub(super) fn of(label: &'static str, minutes: &[Minute], each: usize) -> Self {
        let sum = |of: fn(&Minute) -> u32| minutes.iter().map(|it| u64::from(of(it))).sum();
        let bars: Vec<_> = minutes
            .chunks(each)
            .map(|bar| bar.iter().fold([0, 0], |[a, b], it| [a + it.delivered, b + it.failed]))
            .collect();
        Self {
            label,
            accepted: sum(|it| it.accepted),
            delivered: sum(|it| it.delivered),
            failed: sum(|it| it.failed),
            chart: charts::bars(&bars, ["good", "bad"], label),
        }
    }
}

#[derive(Template)]
#[template(path = "overview.html", config = "src/page/askama.toml")]
struct View<'a> {
    page: &'a Page,
    queue: QueueView,
    /// Since when the oldest due one is due, if that is remarkable.
    oldest_due: Option<String>,
    /// Those that do not work, and the lists of their callbacks.
    troubled: Vec<(DestinationView, String)>,
    failed: Vec<Row>,
    throughput: [Throughput; 2],
    began: String,
    delivered_from: Option<String>,
    empty: bool,
    /// Why no events are accepted.
    trouble: Option<String>,
}

pub(super) async fn show(State(shared): State<Shared>, request: Request) -> Answer {
    let page = Page::of(&shared, &request).on(Tab::Overview);
    let api = &shared.api;
    let query = Query { state: Some(StateName::Failed), limit: FAILED, ..Query::default() };
    let found = async { tokio::try_join!(api.outbox.summary(page.now), api.outbox.list(query)) };
    let (found, ready) = tokio::join!(found, api.health.ready());
    let (summary, failures) = found.map_err(|error| page.failed(&error))?;
    let queue = QueueView::new(summary, &api.terms, page.now);
    let troubled = queue.destinations.iter().filter(|it| it.state != DestinationState::Ok);
    let list = |name: &str| page.link(Filter::only("destination", name).list());
    let with_list = |it: &DestinationView| (it.clone(), list(&it.destination));
    let troubled = troubled.take(DESTINATIONS).map(with_list).collect();
    let oldest_due = Duration::from_secs(queue.oldest_due_seconds);
    let oldest_due = (oldest_due > OVERDUE).then(|| humantime::format_duration(oldest_due));
    let row = |it| Row::new(it, &api.terms, &page);
    let words = page.words;
    let view = View {
        oldest_due: oldest_due.map(|it| it.to_string()),
        troubled,
        failed: failures.callbacks.iter().map(row).collect(),
        throughput: [
            Throughput::of(words.last_hour, &recent::minutes(60, page.now), 1),
            Throughput::of(words.last_day, &recent::minutes(recent::DAY, page.now), 15),
        ],
        began: api.started_at.to_string(),
        delivered_from: recent::delivered_from().map(|at| at.to_string()),
        empty: queue.pending + queue.delivered + queue.failed == 0,
        trouble: ready.err(),
        queue,
        page: &page,
    };
    Ok(html(StatusCode::OK, &view))
}
