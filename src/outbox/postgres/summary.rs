//! The summary, and the destinations. Which callbacks are in flight and which destinations are open is known
//! in memory only.

use std::collections::HashMap;

use super::{
    read::{Arg, Reads},
    rows::{self, big, count, millis, time},
};
use crate::{
    callback::Destination,
    clock::Timestamp,
    outbox::{
        DestinationPage, DestinationQuery, DestinationSummary, OVERDUE, Open, Summary,
        error::Result, horizon::Horizon, views,
    },
};

/// Maximum number of destinations in a summary.
const DESTINATIONS_SHOWN: usize = 1000;

/// Destinations with their counters, and the due callbacks of each, except those in flight ($2). A time later
/// than $3 was stored while the clock was ahead.
const DESTINATIONS: &str = "SELECT d.queue, d.name, d.hold_until, d.paused_at, d.open_since, d.probe_at, \
        coalesce(t.pending, 0)::bigint AS pending, coalesce(t.failed, 0)::bigint AS failed, \
        coalesce(a.due, 0)::bigint AS due, a.oldest \
    FROM @schema@.destination d \
    LEFT JOIN (SELECT queue, sum(pending) AS pending, sum(failed) AS failed FROM @schema@.tally GROUP BY queue) t \
        ON t.queue = d.queue \
    LEFT JOIN (SELECT queue, count(*) AS due, min(due) AS oldest FROM @schema@.progress \
        WHERE readiness < 2 AND (due <= $1 OR due > $3) AND NOT seq = ANY ($2) GROUP BY queue) a ON a.queue = d.queue";

/// A destination, combined from its rows and its queue.
struct Described {
    summary: DestinationSummary,
    oldest: Option<Timestamp>,
}

impl Reads {
    async fn described(&self, now: Timestamp) -> Result<Vec<Described>> {
        let horizon = Horizon { now, latest: now.after(self.longest_pause) };
        let (claimed, in_memory) = {
            let inner = self.queues.lock();
            let in_memory: HashMap<i64, (Option<Open>, u64)> = inner
                .queues
                .iter()
                .map(|(key, queue)| (big(key.0), (queue.open(), queue.in_flight().count() as u64)))
                .collect();
            (inner.in_flight(), in_memory)
        };
        let found = self
            .query(
                DESTINATIONS,
                &[Arg::Long(millis(now)), Arg::Longs(&claimed), Arg::Long(millis(horizon.latest))],
            )
            .await?;
        let described = found.iter().map(|row| {
            // This instance does not know what another one has in flight.
            let of = in_memory.get(&row.get::<_, i64>("queue"));
            let (open, in_flight) = of.copied().unwrap_or_else(|| (rows::open(row), 0));
            let pending = count(row.get("pending"));
            let hold_until = time(row.get("hold_until"));
            let oldest = row.get::<_, Option<i64>>("oldest").map(time);
            let summary = DestinationSummary {
                destination: Destination::from_stored(row.get("name")),
                pending,
                due: count(row.get("due")),
                in_flight: in_flight.min(pending),
                failed: count(row.get("failed")),
                paused_at: row.get::<_, Option<i64>>("paused_at").map(time),
                open,
                hold_until: Some(hold_until).filter(|it| horizon.is_later(*it)),
            };
            Described { summary, oldest: oldest.map(|it| it.min(now)) }
        });
        Ok(described.collect())
    }

    /// Summary of the outbox.
    pub(super) async fn summary(&self, now: Timestamp) -> Result<Summary> {
        let described = self.described(now).await?;
        let totals = self
            .query(
                "SELECT coalesce(sum(pending), 0)::bigint AS pending, coalesce(sum(delivered), 0)::bigint AS delivered, \
                    coalesce(sum(failed), 0)::bigint AS failed, \
                    (SELECT min(ended_at) FROM @schema@.progress WHERE status = 1) AS oldest_delivered, \
                    (SELECT min(ended_at) FROM @schema@.progress WHERE status = 2) AS oldest_failed, \
                    (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c \
                     WHERE c.relkind = 'r' AND c.relnamespace = \
                        (SELECT relnamespace FROM pg_class WHERE oid = '@schema@.meta'::regclass)) AS bytes \
                 FROM @schema@.total",
                &[],
            )
            .await?;
        let mut summary =
            Summary { instances: self.instances(millis(now)).await?, ..Summary::default() };
        if let Some(row) = totals.first() {
            let oldest = |name: &str| row.get::<_, Option<i64>>(name).map(time);
            summary.pending = count(row.get("pending"));
            summary.delivered = count(row.get("delivered"));
            summary.failed = count(row.get("failed"));
            summary.oldest_delivered = oldest("oldest_delivered");
            summary.oldest_failed = oldest("oldest_failed");
            summary.store_bytes = count(row.get("bytes"));
        }
        let mut all = Vec::new();
        let mut due = 0;
        for Described { summary: it, oldest } in described {
            summary.in_flight += it.in_flight;
            due += it.due;
            let free = it.open.is_none() && it.hold_until.is_none() && it.paused_at.is_none();
            if free && oldest.is_some_and(|at| now.since(at) > OVERDUE) {
                summary.overdue += it.due;
            }
            summary.oldest_due = summary.oldest_due.into_iter().chain(oldest).min();
            if it.paused_at.is_some() {
                summary.due_paused += it.due;
            } else {
                summary.oldest_due_unpaused =
                    summary.oldest_due_unpaused.into_iter().chain(oldest).min();
            }
            if counts(&it) {
                all.push(it);
            }
        }
        // The parts are read at different times; this makes their sum the number of pending callbacks.
        summary.in_flight = summary.in_flight.min(summary.pending);
        summary.due = due.min(summary.pending - summary.in_flight);
        summary.waiting = summary.pending - summary.in_flight - summary.due;
        summary.overdue = summary.overdue.min(summary.due);
        summary.due_paused = summary.due_paused.min(summary.due);
        summary.destination_count = all.len() as u64;
        summary.open_count = all.iter().filter(|it| it.open.is_some()).count() as u64;
        summary.paused_count = all.iter().filter(|it| it.paused_at.is_some()).count() as u64;
        views::keep_first(&mut all, DESTINATIONS_SHOWN, |it| it);
        summary.destinations = all;
        Ok(summary)
    }

    /// One page of destinations.
    pub(super) async fn destinations(
        &self,
        query: DestinationQuery,
        now: Timestamp,
    ) -> Result<DestinationPage> {
        let described = self.described(now).await?.into_iter().map(|it| it.summary);
        let mut all: Vec<_> =
            described.filter(|it| counts(it) && query.matches(&it.destination)).collect();
        let idle = query.idle_besides(all.iter().map(|it| &it.destination));
        all.extend(idle);
        all.retain(|it| query.cursor.as_ref().is_none_or(|cursor| cursor.is_before(it)));
        let more = views::keep_first(&mut all, query.limit.max(1), |it| it);
        let next = all.last().filter(|_| more).map(DestinationSummary::order);
        Ok(DestinationPage { destinations: all, next })
    }
}

/// Whether it has pending or failed callbacks or is paused.
fn counts(it: &DestinationSummary) -> bool {
    !it.destination.is_none() && (it.pending > 0 || it.failed > 0 || it.paused_at.is_some())
}
