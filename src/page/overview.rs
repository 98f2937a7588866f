//! The first view: what does not progress, and the throughput.

use std::{cmp::Reverse, time::Duration};

use askama::Template;
use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use futures_util::future::try_join_all;

use super::{
    callbacks::Row,
    charts,
    condition::Condition,
    context::{Answer, Page, Refusal, Tab, html},
    filter::Filter,
    state::Shared,
};
use crate::{
    api::view::QueueView,
    health::{SourceState, SourceWord},
    outbox::{DestinationSummary, OVERDUE, Query, StateName, Summary},
    recent::{self, Attempts, Minute},
};

/// Number of failed callbacks on this view.
const FAILED: usize = 8;

/// Number of destinations on this view.
const DESTINATIONS: usize = 8;

/// Sums over a period, and its chart.
pub(super) struct Throughput {
    pub(super) label: &'static str,
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) chart: String,
}

impl Throughput {
    /// Sums over these minutes; each bar of the chart covers `each` of them.
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
    /// Since when the oldest due callback is due, if that is long ago.
    oldest_due: Option<String>,
    troubled: Troubled,
    /// Due callbacks, without those of paused destinations.
    due: u64,
    due_paused: u64,
    failed: Vec<Row>,
    throughput: [Throughput; 2],
    began: String,
    delivered_from: Option<String>,
    empty: bool,
    /// Why no events are accepted.
    trouble: Option<String>,
    nats: Option<SourceState>,
}

impl View<'_> {
    /// The state of the source of events from NATS.
    fn does(&self, nats: &SourceState) -> &'static str {
        match nats.state {
            SourceWord::Pulling => self.page.words.nats_pulling,
            SourceWord::Standby => self.page.words.nats_standby,
            SourceWord::Waiting => self.page.words.nats_waiting,
        }
    }
}

/// Destinations that do not work.
struct Troubled {
    /// The first failed callbacks, and the lists to which they link.
    first: Vec<(Condition, String)>,
    others: u64,
    /// Whether there may be more than these.
    more: bool,
}

/// The order of destinations that do not work: unintended states first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Open,
    Failing,
    Held,
    /// This process has seen no attempt since its start; the store may have more.
    Unknown,
    Paused,
}

impl Trouble {
    fn of(it: &DestinationSummary) -> Option<Self> {
        let known = recent::attempts_of(&it.destination);
        match () {
            () if it.paused_at.is_some() => Some(Self::Paused),
            () if it.open.is_some() => Some(Self::Open),
            () if known.as_ref().is_some_and(Attempts::are_failing) => Some(Self::Failing),
            () if it.hold_until.is_some() => Some(Self::Held),
            () if known.is_none() && it.pending > 0 => Some(Self::Unknown),
            () => None,
        }
    }
}

/// The first destinations that do not work, those with the most pending callbacks first.
async fn troubled(
    shared: &Shared,
    page: &Page,
    summary: &mut Summary,
) -> Result<Troubled, Refusal> {
    let all = std::mem::take(&mut summary.destinations);
    let listed = all.len() as u64;
    let of = |it: DestinationSummary| Trouble::of(&it).map(|trouble| (trouble, it));
    let mut found: Vec<_> = all.into_iter().filter_map(of).collect();
    // If there are many, the store is queried only for the first ones.
    let mut asked = 0;
    found.retain(|(trouble, _)| {
        asked += usize::from(*trouble == Trouble::Unknown);
        *trouble != Trouble::Unknown || asked <= DESTINATIONS
    });
    found.sort_by_key(|(trouble, it)| (*trouble, Reverse(it.pending)));
    let is_certain = |(trouble, _): &&(Trouble, _)| *trouble != Trouble::Unknown;
    let certain = found.iter().filter(is_certain).count() as u64;
    found.truncate(2 * DESTINATIONS);
    // Together, because each may wait for a commit.
    let conditions = found.into_iter().map(|(_, it)| Condition::of(shared, page, it));
    let mut first = try_join_all(conditions).await?;
    first.retain(|it| !it.is_well());
    first.truncate(DESTINATIONS);
    let list = |it: &Condition| page.link(Filter::only("destination", &it.it.destination).list());
    let with_list = |it: Condition| {
        let list = list(&it);
        (it, list)
    };
    let total = certain.max(summary.open_count);
    Ok(Troubled {
        others: total.saturating_sub(first.len() as u64),
        more: summary.destination_count > listed,
        first: first.into_iter().map(with_list).collect(),
    })
}

pub(super) async fn show(State(shared): State<Shared>, request: Request) -> Answer {
    let page = Page::of(&shared, &request).on(Tab::Overview);
    let api = &shared.api;
    let query = Query { state: Some(StateName::Failed), limit: FAILED, ..Query::default() };
    let found = async { tokio::try_join!(api.outbox.summary(page.now), api.outbox.list(query)) };
    let (found, ready) = tokio::join!(found, api.health.ready());
    let (mut summary, failures) = found.map_err(|error| page.failed(&error))?;
    let troubled = troubled(&shared, &page, &mut summary).await?;
    let oldest_due = summary.oldest_due_unpaused.map(|at| page.now.since(at));
    let oldest_due = oldest_due.filter(|it| *it > OVERDUE).map(|it| it.as_secs());
    let oldest_due = oldest_due.map(|it| humantime::format_duration(Duration::from_secs(it)));
    let due_paused = summary.due_paused;
    let queue = QueueView::new(summary, &api.terms.load(), page.now);
    let row = |it| Row::new(it, &api.terms.load(), &page);
    let words = page.words;
    let view = View {
        oldest_due: oldest_due.map(|it| it.to_string()),
        troubled,
        due: queue.due.saturating_sub(due_paused),
        due_paused,
        failed: failures.callbacks.iter().map(row).collect(),
        throughput: [
            Throughput::of(words.last_hour, &recent::minutes(60, page.now), 1),
            Throughput::of(words.last_day, &recent::minutes(recent::DAY, page.now), 15),
        ],
        began: page.started_at.to_string(),
        delivered_from: recent::delivered_from().map(|at| at.to_string()),
        empty: queue.pending + queue.delivered + queue.failed == 0,
        trouble: ready.err(),
        nats: api.health.nats(),
        queue,
        page: &page,
    };
    Ok(html(StatusCode::OK, &view))
}
