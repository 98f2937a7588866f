//! Metrics: name, unit and meaning of each, and one function for each event that is counted.
//!
//! Names follow Prometheus's conventions: base units, and `_total` for counters. No label has unbounded
//! values. The gauges of the store (for example the number of pending callbacks) are read by
//! `api/metrics.rs` at each scrape.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Job events by outcome.
const EVENTS: &str = "urlcallback_events_total";
/// Attempts by result.
const ATTEMPTS: &str = "urlcallback_attempts_total";
/// Duration of attempts.
const ATTEMPT_DURATION: &str = "urlcallback_attempt_duration_seconds";
/// From acceptance to the first attempt.
const FIRST_ATTEMPT: &str = "urlcallback_accept_to_first_attempt_seconds";
/// From acceptance to delivery.
const DELIVERED: &str = "urlcallback_accept_to_delivered_seconds";
/// Callbacks that ended, by state.
const ENDED: &str = "urlcallback_callbacks_ended_total";
/// Size of commits.
const COMMIT_SIZE: &str = "urlcallback_commit_batch_size";
/// Duration of commits.
const COMMIT_DURATION: &str = "urlcallback_commit_duration_seconds";
/// Connections to receivers.
const CONNECTIONS_OPENED: &str = "urlcallback_connections_opened_total";
/// Exchanges on an existing connection.
const CONNECTIONS_REUSED: &str = "urlcallback_connections_reused_total";
/// Jobs and callbacks that cannot be repaired.
const STUCK: &str = "urlcallback_stuck";
/// Callbacks that were removed.
const PURGED: &str = "urlcallback_callbacks_purged_total";
/// Requests for access tokens.
const TOKEN_REQUESTS: &str = "urlcallback_token_requests_total";

/// Shards of instances that were gone.
const SHARDS_TAKEN_OVER: &str = "urlcallback_shards_taken_over_total";
/// Shards whose session broke.
const SHARDS_LOST: &str = "urlcallback_shards_lost_total";
/// Outcomes that were not recorded, because the shard was lost.
const OUTCOMES_REFUSED: &str = "urlcallback_outcomes_refused_total";
/// Calls of the database.
const ROUND_TRIP: &str = "urlcallback_database_round_trip_seconds";

/// Messages from NATS.
const NATS_PULLED: &str = "urlcallback_nats_pulled_total";
/// Messages that were acknowledged.
const NATS_ACKNOWLEDGED: &str = "urlcallback_nats_acknowledged_total";
/// Messages whose event had been stored already.
const NATS_DUPLICATES: &str = "urlcallback_nats_duplicates_total";
/// Messages that were terminated.
const NATS_DEAD_LETTERED: &str = "urlcallback_nats_dead_lettered_total";
/// Messages that are still to be pulled.
const NATS_BEHIND: &str = "urlcallback_nats_behind";
/// Whether there is a connection.
const NATS_CONNECTED: &str = "urlcallback_nats_connected";
/// Whether messages are pulled.
const NATS_PULLING: &str = "urlcallback_nats_pulling";
/// Age of the last message.
const NATS_AGE: &str = "urlcallback_nats_message_age_seconds";

/// Upper bounds in seconds, from a fast receiver on the same network to a weekend.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1800.0, 7200.0, 28_800.0, 86_400.0, 259_200.0,
];

/// Upper bounds for a commit, which takes a few syncs at most.
const COMMIT_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Upper bounds for the callbacks in one commit.
const COMMIT_SIZES: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];

/// Installs the recorder for the whole process. Without it, the functions here do nothing.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets(SECONDS)?
        .set_buckets_for_metric(Matcher::Full(COMMIT_DURATION.into()), COMMIT_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(COMMIT_SIZE.into()), COMMIT_SIZES)?
        .install_recorder()?;
    describe();
    begin_at_zero();
    Ok(handle)
}

/// Initializes counters, because `increase()` does not see the first event of a counter that appears
/// with it.
fn begin_at_zero() {
    for outcome in ["accepted", "duplicate", "ignored", "failed", "refused"] {
        counter!(EVENTS, "outcome" => outcome).absolute(0);
    }
    for state in ["delivered", "failed"] {
        counter!(ENDED, "state" => state).absolute(0);
    }
    counter!(ATTEMPTS, "result" => "success").absolute(0);
    counter!(PURGED).absolute(0);
    gauge!(STUCK).set(0.0);
}

fn describe() {
    describe_counter!(EVENTS, "Job events by outcome.");
    describe_counter!(ATTEMPTS, "Attempts by result: success, or the kind of the error.");
    describe_counter!(ENDED, "Callbacks that ended, by state: delivered or failed.");
    describe_counter!(TOKEN_REQUESTS, "Requests for access tokens (OAuth 2), by result.");
    describe_counter!(PURGED, "Callbacks removed because their retention was over.");
    describe_counter!(CONNECTIONS_OPENED, "Connections to receivers that were opened.");
    describe_counter!(
        CONNECTIONS_REUSED,
        "Requests sent on an existing connection (requests minus connections opened)."
    );
    describe_histogram!(ATTEMPT_DURATION, Unit::Seconds, "Duration of attempts.");
    describe_histogram!(FIRST_ATTEMPT, Unit::Seconds, "From acceptance to the first attempt.");
    describe_histogram!(DELIVERED, Unit::Seconds, "From acceptance to delivery.");
    describe_counter!(SHARDS_TAKEN_OVER, "Shards taken over from instances that were gone.");
    describe_counter!(SHARDS_LOST, "Shards lost because the connection to the database broke.");
    describe_counter!(
        OUTCOMES_REFUSED,
        "Outcomes that were not recorded, because another instance has the shard or may have it."
    );
    describe_histogram!(
        ROUND_TRIP,
        Unit::Seconds,
        "One call of the database by the session that writes."
    );
    describe_histogram!(COMMIT_SIZE, "Changed callbacks in one commit of the store.");
    describe_histogram!(COMMIT_DURATION, Unit::Seconds, "One commit of the store, sync included.");
    for (name, help) in [
        (gauge::CALLBACKS, "Callbacks in the store, by state."),
        (
            gauge::DUE,
            "Callbacks that are due, including those of open, held and paused destinations.",
        ),
        (
            gauge::OVERDUE,
            "Due callbacks of destinations that are not open, held or paused and whose oldest due callback has waited for more than a minute.",
        ),
        (gauge::WAITING, "Callbacks waiting for a retry or for another callback of their job."),
        (gauge::IN_FLIGHT, "Callbacks that are being sent."),
        (STUCK, "Jobs and callbacks that are stuck because a row of the store cannot be read."),
        (gauge::OLDEST_DUE, "Seconds since the oldest due callback became due; 0 if none is due."),
        (gauge::OPEN, "Destinations that do not respond."),
        (gauge::PAUSED, "Destinations that an operator paused."),
        (gauge::DESTINATIONS, "Destinations with pending or failed callbacks."),
        (gauge::STORE, "Size of the store on disk, in bytes."),
        (gauge::READY, "1 if events are accepted."),
        (gauge::BUILD, "1; its label is the version."),
        (gauge::INSTANCES, "Instances that are connected to the shared store."),
        (gauge::SHARDS, "Shards of the destinations that this instance owns."),
        (gauge::START, "When the service started, in seconds since 1970."),
    ] {
        describe_gauge!(name, help);
    }
}

/// The names of the gauges that are read from the store at each scrape.
pub mod gauge {
    /// By state.
    pub const CALLBACKS: &str = "urlcallback_callbacks";
    /// Due callbacks.
    pub const DUE: &str = "urlcallback_callbacks_due";
    /// Overdue callbacks.
    pub const OVERDUE: &str = "urlcallback_callbacks_overdue";
    /// Waiting for a retry or for another callback of their job.
    pub const WAITING: &str = "urlcallback_callbacks_waiting";
    /// Being sent.
    pub const IN_FLIGHT: &str = "urlcallback_callbacks_in_flight";
    /// Age of the oldest due callback.
    pub const OLDEST_DUE: &str = "urlcallback_oldest_due_seconds";
    /// How many destinations are open.
    pub const OPEN: &str = "urlcallback_destinations_open";
    /// How many destinations are paused.
    pub const PAUSED: &str = "urlcallback_destinations_paused";
    /// How many destinations there are.
    pub const DESTINATIONS: &str = "urlcallback_destinations";
    /// One destination.
    pub const DESTINATION_PENDING: &str = "urlcallback_destination_pending";
    /// One destination.
    pub const DESTINATION_OPEN: &str = "urlcallback_destination_open";
    /// How many instances share the store.
    pub const INSTANCES: &str = "urlcallback_instances";
    /// How many shards this one owns.
    pub const SHARDS: &str = "urlcallback_shards";
    /// Bytes.
    pub const STORE: &str = "urlcallback_store_bytes";
    /// Whether events are accepted.
    pub const READY: &str = "urlcallback_ready";
    /// The version.
    pub const BUILD: &str = "urlcallback_build_info";
    /// The start.
    pub const START: &str = "urlcallback_start_time_seconds";
}

/// Handles of the metrics that every callback changes: looking one up costs as much as a few
/// allocations. They are created at the first use, so [`install`] must be called before.
struct Hot {
    first_attempt: Histogram,
    succeeded: Counter,
    attempt_duration: Histogram,
    delivered: Counter,
    delivered_after: Histogram,
}

static HOT: LazyLock<Hot> = LazyLock::new(|| Hot {
    first_attempt: histogram!(FIRST_ATTEMPT),
    succeeded: counter!(ATTEMPTS, "result" => "success"),
    attempt_duration: histogram!(ATTEMPT_DURATION),
    delivered: counter!(ENDED, "state" => "delivered"),
    delivered_after: histogram!(DELIVERED),
});

/// The outcome of an event.
pub fn event(outcome: &'static str) {
    counter!(EVENTS, "outcome" => outcome).increment(1);
}

/// An attempt begins; `waited` is the time since acceptance if it is the first.
pub fn attempt_begins(waited: Option<Duration>) {
    if let Some(waited) = waited {
        HOT.first_attempt.record(waited);
    }
}

/// An attempt ended: with a success, or the kind of its error.
pub fn attempt_ended(error: Option<&'static str>, took: Duration) {
    match error {
        None => HOT.succeeded.increment(1),
        Some(kind) => counter!(ATTEMPTS, "result" => kind).increment(1),
    }
    HOT.attempt_duration.record(took);
}

/// A callback was delivered, this long after its acceptance.
pub fn delivered(after: Duration) {
    HOT.delivered_after.record(after);
}

/// This many callbacks were delivered, and this many have failed, for any reason.
pub fn ended(delivered: u64, failed: u64) {
    HOT.delivered.increment(delivered);
    if failed > 0 {
        counter!(ENDED, "state" => "failed").increment(failed);
    }
}

/// The store is shared: its counters begin, so that their first event is seen.
pub fn share_begins() {
    for name in [SHARDS_TAKEN_OVER, SHARDS_LOST, OUTCOMES_REFUSED] {
        counter!(name).absolute(0);
    }
}

/// This many shards of an instance that is gone were taken over.
pub fn shards_taken_over(count: usize) {
    counter!(SHARDS_TAKEN_OVER).increment(count as u64);
}

/// This many shards were lost, because the session broke.
pub fn shards_lost(count: usize) {
    counter!(SHARDS_LOST).increment(count as u64);
}

/// An outcome is not recorded, because the shard was lost.
pub fn outcome_refused() {
    counter!(OUTCOMES_REFUSED).increment(1);
}

/// The database has answered a call.
pub fn round_trip(took: Duration) {
    histogram!(ROUND_TRIP).record(took);
}

/// The store has committed this many changes.
pub fn committed(size: usize, took: Duration) {
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    histogram!(COMMIT_SIZE).record(size);
    histogram!(COMMIT_DURATION).record(took);
}

/// Number of connections to receivers that were opened.
static CONNECTING: AtomicU64 = AtomicU64::new(0);
/// Number of requests that were sent, or were to be sent, on a connection.
static EXCHANGES: AtomicU64 = AtomicU64::new(0);

/// A connection to a receiver is being opened.
pub fn connecting() {
    CONNECTING.fetch_add(1, Ordering::Relaxed);
}

/// A request needs a connection.
pub fn exchange() {
    EXCHANGES.fetch_add(1, Ordering::Relaxed);
}

/// Updates the counters of connections: the client does not report which connection a request used, but
/// requests for which no connection was opened used an existing one.
pub fn refresh() {
    let (begun, exchanges) =
        (CONNECTING.load(Ordering::Relaxed), EXCHANGES.load(Ordering::Relaxed));
    counter!(CONNECTIONS_OPENED).absolute(begun);
    counter!(CONNECTIONS_REUSED).absolute(exchanges.saturating_sub(begun));
}

/// Sets the number of jobs and callbacks that cannot be repaired.
pub fn stuck(count: u64) {
    gauge!(STUCK).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
}

/// An access token was requested.
pub fn token_requested(granted: bool) {
    let result = if granted { "granted" } else { "failed" };
    counter!(TOKEN_REQUESTS, "result" => result).increment(1);
}

/// This many callbacks were removed.
pub fn purged(count: u64) {
    counter!(PURGED).increment(count);
}

/// Events come from NATS: its metrics begin.
pub fn nats_begins() {
    describe_counter!(NATS_PULLED, "Messages that were pulled from NATS.");
    describe_counter!(NATS_ACKNOWLEDGED, "Messages that were acknowledged to NATS.");
    describe_counter!(NATS_DUPLICATES, "Messages from NATS whose event was stored before.");
    describe_counter!(
        NATS_DEAD_LETTERED,
        "Messages from NATS that can never become an event, and were terminated."
    );
    describe_gauge!(NATS_BEHIND, "Messages of the consumer that were not delivered yet.");
    describe_gauge!(NATS_CONNECTED, "1 if there is a connection to NATS.");
    describe_gauge!(NATS_PULLING, "1 if this instance pulls messages from NATS.");
    describe_gauge!(NATS_AGE, "How old the last message from NATS was when it was pulled.");
    for name in [NATS_PULLED, NATS_ACKNOWLEDGED, NATS_DUPLICATES, NATS_DEAD_LETTERED] {
        counter!(name).absolute(0);
    }
    for name in [NATS_BEHIND, NATS_CONNECTED, NATS_PULLING] {
        gauge!(name).set(0.0);
    }
}

/// The connection to NATS was made, or broke.
pub fn nats_connected(connected: bool) {
    gauge!(NATS_CONNECTED).set(u8::from(connected));
}

/// Messages are pulled from NATS, or not any more.
pub fn nats_pulling(pulling: bool) {
    gauge!(NATS_PULLING).set(u8::from(pulling));
}

/// A message was pulled that was this old, and this many are still to be pulled.
pub fn nats_pulled(age: Duration, behind: u64) {
    counter!(NATS_PULLED).increment(1);
    gauge!(NATS_AGE).set(age);
    nats_behind(behind);
}

/// This many messages are still to be pulled.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and exact up to 2^53")]
pub fn nats_behind(behind: u64) {
    gauge!(NATS_BEHIND).set(behind as f64);
}

/// Counts acknowledged messages, and those of them whose events had been stored already.
pub fn nats_acknowledged(count: u64, duplicates: u64) {
    counter!(NATS_ACKNOWLEDGED).increment(count);
    counter!(NATS_DUPLICATES).increment(duplicates);
}

/// A message was terminated.
pub fn nats_dead_lettered() {
    counter!(NATS_DEAD_LETTERED).increment(1);
}
