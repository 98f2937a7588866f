//! `GET /metrics`: Prometheus text.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use metrics::gauge as set;

use super::{problem::Problem, state::Shared};
use crate::{
    measure::{self, gauge},
    outbox::DestinationSummary,
};

/// Prometheus's text format, version 0.0.4.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics, in Prometheus's text format.
#[utoipa::path(
    get, operation_id = "getMetrics", path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "text/plain"), (status = 401, body = Problem)),
)]
pub(super) async fn get(State(shared): State<Shared>) -> Result<Response, Problem> {
    let now = shared.clock.now();
    let summary = shared.outbox.summary(now).await?;
    let ready = shared.health.ready().await.is_ok();
    for (state, count) in
        [("pending", summary.pending), ("delivered", summary.delivered), ("failed", summary.failed)]
    {
        set!(gauge::CALLBACKS, "state" => state).set(float(count));
    }
    for (name, value) in [
        (gauge::DUE, summary.due),
        (gauge::OVERDUE, summary.overdue),
        (gauge::WAITING, summary.waiting),
        (gauge::IN_FLIGHT, summary.in_flight),
        (gauge::OLDEST_DUE, summary.oldest_due.map_or(0, |due| now.since(due).as_secs())),
        (gauge::OPEN, summary.open_count),
        (gauge::PAUSED, summary.paused_count),
        (gauge::DESTINATIONS, summary.destination_count),
        (gauge::STORE, summary.store_bytes),
        (gauge::READY, u64::from(ready)),
        (gauge::START, shared.started_at.as_secs()),
    ] {
        set!(name).set(float(value));
    }
    if !summary.instances.is_empty() {
        let alive = summary.instances.iter().filter(|it| it.is_alive).count() as u64;
        let own = summary.instances.iter().filter(|it| it.is_self && it.is_alive);
        set!(gauge::INSTANCES).set(float(alive));
        set!(gauge::SHARDS).set(float(own.map(|it| u64::from(it.shards)).sum()));
    }
    set!(gauge::BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    measure::refresh();
    let mut text = shared.metrics.render();
    destinations(&mut text, summary.destinations, shared.settings.metrics_destinations);
    Ok(([(header::CONTENT_TYPE, TEXT)], text).into_response())
}

/// The metrics of individual destinations are written here, because the recorder would keep every
/// destination that was ever listed.
fn destinations(text: &mut String, mut all: Vec<DestinationSummary>, most: usize) {
    // They are sorted by pending callbacks; the stable sort keeps that order within the open ones.
    all.sort_by_key(|it| it.open.is_none());
    all.truncate(most);
    let mut family = |name: &str, help: &str, value: &dyn Fn(&DestinationSummary) -> u64| {
        if all.is_empty() {
            return;
        }
        text.extend(["# HELP ", name, " ", help, "\n# TYPE ", name, " gauge\n"]);
        for it in &all {
            let label = it.destination.as_str().replace('\\', "\\\\").replace('"', "\\\"");
            let value = value(it).to_string();
            text.extend([name, "{destination=\"", &label, "\"} ", &value, "\n"]);
        }
        text.push('\n');
    };
    family(
        gauge::DESTINATION_PENDING,
        "Pending callbacks of the open and the busiest destinations, as many as metrics.destinations.",
        &|it| it.pending,
    );
    family(
        gauge::DESTINATION_OPEN,
        "1 if the destination is open (not responding), 0 otherwise.",
        &|it| u64::from(it.open.is_some()),
    );
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and exact up to 2^53")]
fn float(value: u64) -> f64 {
    value as f64
}
