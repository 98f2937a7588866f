//! Exports of callbacks that change.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future;
use seal_dpf_urlcallback::{
    clock::{Clock as _, SystemClock},
    outbox::{
        ExportCursor, Outbox, Query, Sequence, Settlement,
        sled::{Settings, SledOutbox},
    },
};
use tokio::time::timeout;

use super::{
    bench::{Halting, START, attempt, destination},
    new,
};

const ALL: usize = 4_000;

/// Delivers callbacks, a few at a time, until none is left.
async fn drain(outbox: &SledOutbox) {
    loop {
        let now = SystemClock.now();
        let claims = outbox.claim(&destination(), 8, now).unwrap().claimed;
        let settled = claims.into_iter().map(|claim| {
            let settlement = Settlement::Delivered(attempt(&claim, true));
            outbox.settle(claim, settlement)
        });
        future::try_join_all(settled).await.unwrap();
        let summary = outbox.summary(SystemClock.now()).await.unwrap();
        if summary.pending == 0 {
            return;
        }
    }
}

async fn exported(outbox: &SledOutbox) -> usize {
    let (mut found, mut cursor) = (HashSet::new(), ExportCursor::default());
    loop {
        let step = outbox.export(cursor).await.unwrap();
        found.extend(step.entries.iter().map(|entry| entry.record.id));
        match step.next {
            Some(next) => cursor = next,
            None => return found.len(),
        }
    }
}

/// All callbacks of a listing, page by page.
async fn listed(outbox: &SledOutbox, oldest_first: bool) -> usize {
    let mut found = HashSet::new();
    let mut query = Query { limit: 1000, oldest_first, ..Query::default() };
    loop {
        let page = outbox.list(query.clone()).await.unwrap();
        assert!(page.callbacks.len() <= query.limit);
        for it in page.callbacks {
            assert!(found.insert(it.record.id), "twice");
        }
        query.cursor = page.next;
        if page.next.is_none() {
            return found.len();
        }
    }
}

/// Counts all callbacks with `count` repeatedly while they are delivered.
fn while_they_are_delivered(count: &impl AsyncFn(&SledOutbox, usize) -> usize) {
    let folder = crate::support::StoreFolder::new();
    let settings = Settings { min_free_bytes: 0, ..Settings::default() };
    let outbox = SledOutbox::open(folder.path(), settings, Arc::new(SystemClock)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let batch = (0..ALL).map(|job| new(&job.to_string())).collect();
        outbox.enqueue(batch, Sequence::default()).await.unwrap();
        let mut rounds = 0;
        let counting = async {
            loop {
                assert_eq!(count(&outbox, rounds).await, ALL, "round {rounds}");
                rounds += 1;
            }
        };
        tokio::select! {
            () = drain(&outbox) => {}
            never = counting => never,
        }
        assert!(rounds > 0);
    });
}

#[test]
fn an_export_includes_callbacks_that_end_meanwhile() {
    while_they_are_delivered(&async |outbox, _| exported(outbox).await);
}

#[test]
fn a_listing_includes_callbacks_that_end_meanwhile() {
    while_they_are_delivered(&async |outbox, round| listed(outbox, round % 2 == 0).await);
}

#[test]
fn an_export_includes_callbacks_that_end_as_it_begins() {
    let (_folder, outbox, clock) = Halting::open();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        outbox.enqueue(vec![new("1")], Sequence::default()).await.unwrap();
        let claim = outbox.claim(&destination(), 1, START).unwrap().claimed.pop().unwrap();
        let (looked, go) = clock.halt();
        let delivered = Settlement::Delivered(attempt(&claim, true));
        let mut settled = Some(outbox.settle(claim, delivered));
        looked.recv().unwrap();
        clock.clock.advance(Duration::from_secs(1));
        let (mut found, mut cursor) = (0, ExportCursor::default());
        loop {
            let mut step = outbox.export(cursor);
            let early = timeout(Duration::from_millis(100), &mut step).await;
            // The write continues when the export waits for it, or has read one step.
            if let Some(settled) = settled.take() {
                go.send(()).unwrap();
                settled.await.unwrap();
            }
            let step = match early {
                Ok(step) => step.unwrap(),
                Err(_) => step.await.unwrap(),
            };
            found += step.entries.len();
            match step.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        assert!(found > 0, "it is missing");
    });
}

#[test]
fn an_export_includes_callbacks_that_end_while_the_clock_goes_back() {
    let bench = super::bench::Bench::new();
    let id = bench.enqueue("1");
    let (mut found, mut cursor) = (HashSet::new(), ExportCursor::default());
    let mut pending = Some(bench.one());
    loop {
        if let Some(pending) = pending.take() {
            bench.clock.set(START.before(Duration::from_hours(1)));
            bench.deliver(pending);
            bench.clock.set(START);
        }
        let step = bench.wait(bench.outbox().export(cursor));
        found.extend(step.entries.iter().map(|entry| entry.record.id));
        match step.next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(found, HashSet::from([id]));
}
