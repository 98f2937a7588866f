//! What is exported while it changes.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future;
use seal_dpf_urlcallback::{
    clock::{Clock as _, SystemClock},
    outbox::{
        ExportCursor, Outbox, Sequence, Settlement,
        sled::{Settings, SledOutbox},
    },
};

use super::{
    bench::{attempt, destination},
    new,
};

const ALL: usize = 4_000;

/// Delivers one after the other, some at once, until none is left.
async fn drain(outbox: &SledOutbox) {
    loop {
        let now = SystemClock.now();
        let claims = outbox.claim(&destination(), 8, now).await.unwrap().claimed;
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

#[test]
fn an_export_leaves_out_nothing_that_ends_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { min_free_bytes: 0, ..Settings::default() };
    let outbox = SledOutbox::open(folder.path(), settings, Arc::new(SystemClock)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let batch = (0..ALL).map(|job| new(&job.to_string())).collect();
        outbox.enqueue(batch, Sequence::default()).await.unwrap();
        let mut exports = 0;
        let export = async {
            loop {
                assert_eq!(exported(&outbox).await, ALL, "export {exports}");
                exports += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = drain(&outbox) => {}
            never = export => never,
        }
        assert!(exports > 0);
    });
}
