//! Errors found by random operations, with the minimal steps that reproduce them. Each failed in the check
//! after its last step, or in a claim.

use super::{
    Factory, SLED,
    case::Case,
    operation::{
        Asked, Ending, Event,
        Operation::{self, Burst, Claim, Pass, Release, Write},
        Write::{Cancel, Enqueue, Expire, Replay, Settle},
    },
};

fn run(factory: Factory, operations: Vec<Operation>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Case::run(factory, operations));
}

fn event(job: usize) -> Event {
    Event { job, to: 0, key: None, refused: false }
}

fn claim() -> Operation {
    Claim(Asked { to: 0, limit: 1 })
}

fn fail() -> Operation {
    Write(Settle(0, Ending::Failed { attempted: true, hold: None }))
}

/// Callbacks of one job: the last one is in flight, and all others have failed.
fn last_under_way(count: usize) -> Vec<Operation> {
    let mut operations = vec![Write(Enqueue(vec![event(0); count]))];
    for _ in 1..count {
        operations.extend([claim(), fail()]);
    }
    operations.push(claim());
    operations
}

#[test]
fn a_replayed_callback_precedes_a_later_replayed_one_that_was_blocked() {
    let mut operations = last_under_way(3);
    let second_while_under_way = Write(Replay(vec![1]));
    let first_while_free = Write(Replay(vec![0]));
    operations.extend([second_while_under_way, Release(0), first_while_free, claim()]);
    run(SLED, operations);
}

#[test]
fn a_released_callback_stays_active_when_a_replayed_one_is_cancelled() {
    let mut operations = last_under_way(4);
    let first_while_under_way = Write(Replay(vec![0]));
    let third_while_free = Write(Replay(vec![1]));
    let cancel_first = Write(Cancel(0));
    operations.extend([first_while_under_way, Release(0), third_while_free, cancel_first]);
    operations.push(claim());
    run(SLED, operations);
}

#[test]
fn replayed_callbacks_wait_for_the_one_in_flight() {
    let mut operations = last_under_way(3);
    operations.push(Write(Replay(vec![0, 1])));
    run(SLED, operations);
}

#[test]
fn a_callback_activated_in_a_batch_expires_in_the_same_batch() {
    // While the first write is being committed, the other two form one batch.
    let burst = Burst(vec![Enqueue(vec![event(1)]), Cancel(0), Expire(1)]);
    run(SLED, vec![Write(Enqueue(vec![event(0); 2])), Pass(2), burst]);
}

#[test]
fn a_callback_postponed_in_a_batch_expires_in_the_same_batch() {
    let put_off = Settle(0, Ending::Retry { due: 1, hold: None });
    let burst = Burst(vec![Enqueue(vec![event(1)]), put_off, Expire(1)]);
    run(SLED, vec![Write(Enqueue(vec![event(0)])), claim(), Pass(2), burst]);
}
