//! How many callbacks were delivered, from the retention index, which has one row for each batch that ended
//! callbacks.

use std::collections::BTreeMap;

use crate::{
    clock::Timestamp,
    outbox::{
        Delivered, StateName,
        error::Result,
        sled::{keys, shared::store::Store},
    },
};

/// Rows that are read: at full speed, a batch is committed every few milliseconds.
const SCAN_LIMIT: usize = 50_000;

/// The number of callbacks delivered in each minute since `since`, as far back as the limit allows.
pub(crate) fn since(store: &Store, since: Timestamp) -> Result<Delivered> {
    let rows = keys::ended_batch(StateName::Delivered, since, 0)
        ..=keys::ended_batch(StateName::Delivered, Timestamp::MAX, u64::MAX);
    let mut minutes = BTreeMap::new();
    let mut from = since;
    for (row, number) in store.tree.range(rows).rev().zip(1..) {
        let (key, seqs) = row?;
        let at = keys::ended_time(&key);
        *minutes.entry(at.minute()).or_default() += seqs.len() as u64 / 8;
        if number >= SCAN_LIMIT {
            from = at;
            break;
        }
    }
    Ok(Delivered { from, minutes })
}
