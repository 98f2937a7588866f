//! Outcomes that a killed process has not committed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use seal_dpf_urlcallback::{
    callback::CallbackId,
    outbox::{
        Claim, Enqueued, ErrorKind, Failure, Outbox as _, Record, Sequence, Settlement, StateName,
        sled::{Settings, SledOutbox},
    },
};

use super::{
    attempt,
    bench::{Halting, START, destination},
    new,
};
use crate::support::StoreFolder;

/// How the attempts in these tests end.
fn settlements(claim: &Claim) -> [Settlement; 3] {
    let failure = Failure::new(ErrorKind::Status, "no");
    let due = START.after(Duration::from_mins(5));
    [
        Settlement::Delivered(attempt(claim, true)),
        Settlement::Retry { attempt: attempt(claim, false), due, hold: None },
        Settlement::Failed { attempt: Some(attempt(claim, false)), failure, hold: None },
    ]
}

/// The files of a store as a killed process leaves them.
fn killed(folder: &StoreFolder) -> StoreFolder {
    let image = StoreFolder::new();
    SledOutbox::copy(folder.path(), image.path()).unwrap();
    image
}

fn journal(folder: &StoreFolder) -> PathBuf {
    let mut path = folder.path().as_os_str().to_owned();
    path.push(".journal");
    path.into()
}

/// A store whose only callback had an attempt with the n-th result: as a kill leaves it before the commit,
/// and after it.
fn killed_before_and_after_the_commit(n: usize) -> (StoreFolder, StoreFolder, CallbackId) {
    let (folder, outbox, clock) = Halting::open();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stored = runtime.block_on(outbox.enqueue(vec![new("1")], Sequence::default())).unwrap();
    let Enqueued::Stored(id) = stored[0] else { panic!("{stored:?}") };
    let claims = outbox.claim(&destination(), 1, START).unwrap();
    let claim = claims.claimed.into_iter().next().unwrap();
    let settlement = settlements(&claim).into_iter().nth(n).unwrap();
    let (looked, go_on) = clock.halt();
    let settled = outbox.settle(claim, settlement);
    looked.recv().unwrap();
    let before = killed(&folder);
    go_on.send(()).unwrap();
    runtime.block_on(settled).unwrap();
    (before, killed(&folder), id)
}

/// The number of recovered outcomes in a store, and the callback afterwards.
fn open(folder: &StoreFolder, id: CallbackId) -> (usize, Record) {
    let settings = Settings { min_free_bytes: 0, ..Settings::default() };
    let clock = Arc::clone(&Halting::default().clock);
    let outbox = SledOutbox::open(folder.path(), settings, clock).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let detail = runtime.block_on(outbox.get(id)).unwrap().unwrap();
    (outbox.recovered().len(), detail.status.record)
}

#[test]
fn an_outcome_that_a_kill_leaves_uncommitted_is_committed_at_the_next_start() {
    let states = [StateName::Delivered, StateName::Pending, StateName::Failed];
    for (n, state) in states.into_iter().enumerate() {
        let (before, after, id) = killed_before_and_after_the_commit(n);
        let (recovered, record) = open(&before, id);
        assert_eq!((recovered, record.state_name(), record.attempt_count), (1, state, 1));
        let (recovered, committed) = open(&after, id);
        assert_eq!(recovered, 0, "it was committed");
        assert_eq!(record, committed);
        let (recovered, record) = open(&before, id);
        assert_eq!((recovered, record), (0, committed), "once");
    }
}

#[test]
fn a_torn_journal_is_no_error() {
    let (before, _, id) = killed_before_and_after_the_commit(0);
    let whole = std::fs::read(journal(&before)).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for torn in [&whole[..whole.len() - 1], &whole[..7], &flipped, &[0; 64]] {
        std::fs::write(journal(&before), torn).unwrap();
        let (recovered, record) = open(&before, id);
        assert_eq!((recovered, record.attempt_count), (0, 0));
    }
    std::fs::write(journal(&before), whole).unwrap();
    assert_eq!(open(&before, id).0, 1);
}
