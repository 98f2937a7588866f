//! Lanes, without a loop or a store.

use std::time::Duration;

use super::*;
use crate::delivery::schedule::limits::Rate;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn limits(concurrency: usize) -> Limits {
    Limits { concurrency, rate: None }
}

fn lane(concurrency: usize) -> Lane {
    Lane::new(limits(concurrency))
}

fn settings() -> Settings {
    Settings {
        failures: 3,
        initial_pause: Duration::from_secs(5),
        max_pause: Duration::from_secs(15),
    }
}

fn fail(lane: &mut Lane, now: Timestamp) -> Option<Change> {
    lane.start(NOW);
    lane.end(DestinationHealth::Failing, &settings(), now)
}

fn opened() -> Lane {
    let mut lane = lane(16);
    lane.due(NOW);
    for _ in 0..2 {
        assert_eq!(fail(&mut lane, NOW), None);
    }
    assert!(matches!(fail(&mut lane, NOW), Some(Change::Opened(_))));
    assert_eq!(lane.open().unwrap().next_probe_at, NOW.after(Duration::from_secs(5)));
    lane
}

#[test]
fn only_consecutive_failures_open_a_destination() {
    let mut lane = lane(16);
    for _ in 0..10 {
        fail(&mut lane, NOW);
        fail(&mut lane, NOW);
        lane.start(NOW);
        lane.end(DestinationHealth::Working, &settings(), NOW);
    }
    assert!(lane.open().is_none());
    assert!(opened().open().is_some());
}

#[test]
fn an_open_destination_gets_one_probe_at_a_time_with_growing_pauses() {
    let mut lane = opened();
    assert_eq!(lane.room(0, NOW), 0);
    let mut now = NOW;
    for pause in [5, 10, 15, 15] {
        now = now.after(Duration::from_secs(pause));
        assert_eq!(lane.wake_at(0), Some(now));
        assert_eq!(lane.room(0, now), 1);
        lane.start(NOW);
        assert_eq!((lane.room(0, now), lane.wake_at(0)), (0, None));
        let change = lane.end(DestinationHealth::Failing, &settings(), now);
        assert!(matches!(change, Some(Change::Extended(_))), "{change:?}");
    }
    lane.start(NOW);
    let change = lane.end(DestinationHealth::Working, &settings(), now);
    assert_eq!(change, Some(Change::Closed));
    assert_eq!(lane.open(), None);
    assert_eq!(lane.room(14, now), 1, "it starts slowly");
}

#[test]
fn a_destination_that_works_again_has_twice_as_many_attempts_after_each_round() {
    let mut lane = opened();
    let now = NOW.after(Duration::from_secs(5));
    lane.start(now);
    lane.end(DestinationHealth::Working, &settings(), now);
    for limit in [1, 2, 4, 8] {
        assert_eq!((lane.room(16, now), lane.wake_at(16)), (limit, Some(NOW)));
        (0..limit).for_each(|_| lane.start(now));
        assert_eq!((lane.room(16, now), lane.wake_at(16)), (0, None));
        assert!(!lane.lacks_slots(16, now), "that is its own limit");
        for _ in 0..limit {
            lane.end(DestinationHealth::Working, &settings(), now);
        }
    }
    assert_eq!(lane.room(16, now), 16);
    lane.limits.concurrency = 40;
    assert_eq!(lane.room(40, now), 40, "it has started; a raised limit is in effect at once");
}

#[test]
fn a_failure_begins_the_round_again_and_the_start_outlasts_an_idle_time() {
    let mut lane = opened();
    lane.next_due = None;
    assert!(lane.close());
    let attempt = |lane: &mut Lane, health| {
        lane.start(NOW);
        lane.end(health, &settings(), NOW);
    };
    attempt(&mut lane, DestinationHealth::Working);
    attempt(&mut lane, DestinationHealth::Working);
    attempt(&mut lane, DestinationHealth::Failing);
    attempt(&mut lane, DestinationHealth::Working);
    let mut lane = Lane::restored(limits(16), lane.remembered());
    assert_eq!(lane.room(16, NOW), 2);
    attempt(&mut lane, DestinationHealth::Working);
    assert_eq!(lane.room(16, NOW), 4);
    lane.limits.concurrency = 3;
    assert_eq!(lane.room(16, NOW), 3);
}

#[test]
fn a_limited_rate_gives_room_and_wakes_at_its_pace_open_or_not() {
    let rate = Some(Rate { per_second: 2.0, burst: 2 });
    let mut lane = Lane::new(Limits { concurrency: 16, rate });
    lane.due(NOW);
    assert_eq!((lane.room(16, NOW), lane.wake_at(16)), (2, Some(NOW)));
    lane.start(NOW);
    assert_eq!(lane.wake_at(16), Some(NOW), "the burst is not over");
    lane.start(NOW);
    let next = NOW.after(Duration::from_millis(495));
    assert_eq!((lane.room(16, NOW), lane.wake_at(16)), (0, Some(next)));
    assert_eq!(lane.room(16, next), 1);
    assert!(!lane.lacks_slots(0, NOW), "slots are not what it lacks");
    for _ in 0..2 {
        lane.end(DestinationHealth::Working, &settings(), NOW);
    }
    let mut lane = Lane::restored(lane.limits, lane.remembered());
    assert_eq!(lane.room(16, NOW), 0, "being idle gives nothing");
    let open = Open { since: NOW, next_probe_at: NOW };
    lane.come_back(Some(open), &settings(), NOW);
    lane.due(NOW);
    assert_eq!((lane.room(16, NOW), lane.wake_at(16)), (0, Some(next)));
}

#[test]
fn nothing_is_claimed_while_the_store_cannot_be_used_whatever_is_due() {
    let mut lane = lane(16);
    let later = NOW.after(Duration::from_secs(1));
    lane.claim_again(later);
    assert_eq!(lane.wake_at(16), Some(later), "something is due, whatever was known");
    lane.due(NOW);
    assert_eq!((lane.room(16, NOW), lane.wake_at(16)), (0, Some(later)));
    assert!(!lane.lacks_slots(0, NOW), "slots are not what it lacks");
    assert_eq!(lane.room(16, later), 16);
    lane.clock_went_back(NOW.before(Duration::from_hours(1)));
    assert_eq!(lane.room(16, NOW.before(Duration::from_hours(1))), 16);
}

#[test]
fn after_a_backward_jump_an_open_destination_is_probed_and_a_rate_is_kept() {
    let now = NOW.before(Duration::from_hours(1));
    let mut open = opened();
    open.clock_went_back(now);
    assert_eq!((open.room(16, now), open.wake_at(16)), (1, Some(now)));
    let mut limited = lane(16);
    limited.limits.rate = Some(Rate { per_second: 2.0, burst: 1 });
    limited.due(NOW);
    limited.start(NOW);
    limited.clock_went_back(now);
    let next = now.after(Duration::from_millis(495));
    assert_eq!((limited.room(16, now), limited.wake_at(16)), (0, Some(next)));
}

#[test]
fn a_restored_lane_has_its_breaker_and_its_pace() {
    let mut known = opened();
    known.pace.ended(Duration::from_secs(20), DestinationHealth::Working);
    let lane = Lane::restored(limits(16), known.remembered());
    assert_eq!((lane.open(), lane.pace), (known.open(), known.pace));
    assert!(lane.is_idle());
}

#[test]
fn a_destination_that_is_taken_over_is_as_open_as_it_was_left() {
    let left = Open { since: NOW, next_probe_at: NOW.after(Duration::from_secs(9)) };
    let mut lane = Lane::taken_over(limits(16), Some(left), &settings(), NOW);
    lane.due(NOW);
    assert_eq!((lane.open(), lane.wake_at(16)), (Some(left), Some(left.next_probe_at)));
    lane.lose();
    assert!(lane.is_idle() && lane.lost);
    lane.come_back(None, &settings(), NOW);
    lane.due(NOW);
    assert_eq!((lane.lost, lane.room(16, NOW)), (false, 16), "it has worked elsewhere");
    // What was known of it before is not true any more.
    lane.claim_again(NOW.after(Duration::from_secs(1)));
    for _ in 0..3 {
        fail(&mut lane, NOW);
    }
    assert!(lane.close());
    lane.lose();
    lane.come_back(None, &settings(), NOW);
    lane.due(NOW);
    assert_eq!((lane.room(16, NOW), lane.wake_at(16)), (16, Some(NOW)));
    let off = Settings { failures: 0, ..settings() };
    assert_eq!(Lane::taken_over(limits(16), Some(left), &off, NOW).open(), None);
    // The clock of the previous owner was ahead.
    let ahead = Open { since: NOW, next_probe_at: NOW.after(Duration::from_hours(9)) };
    let lane = Lane::taken_over(limits(16), Some(ahead), &settings(), NOW);
    assert_eq!(lane.open().unwrap().next_probe_at, NOW.after(Duration::from_secs(15)));
}

#[test]
fn an_aborted_probe_is_repeated() {
    let mut lane = opened();
    let now = NOW.after(Duration::from_secs(5));
    lane.start(NOW);
    lane.end(DestinationHealth::Unknown, &settings(), now);
    assert_eq!(lane.room(0, now), 1);
}

#[test]
fn an_older_attempt_without_an_outcome_permits_no_second_probe() {
    let mut lane = lane(16);
    lane.due(NOW);
    lane.start(NOW);
    for _ in 0..3 {
        fail(&mut lane, NOW);
    }
    let now = NOW.after(Duration::from_secs(5));
    lane.start(NOW);
    lane.end(DestinationHealth::Unknown, &settings(), now);
    assert_eq!(lane.room(0, now), 0, "the probe is in progress");
    lane.end(DestinationHealth::Unknown, &settings(), now);
    assert_eq!(lane.room(0, now), 1);
}

#[test]
fn zero_failures_disable_the_breaker() {
    let off = Settings { failures: 0, ..settings() };
    let mut lane = lane(16);
    for _ in 0..100 {
        lane.start(NOW);
        assert_eq!(lane.end(DestinationHealth::Failing, &off, NOW), None);
    }
}

#[test]
fn a_destination_lacks_slots_if_something_is_due_and_only_slots_are_missing() {
    let mut lane = lane(16);
    (0..2).for_each(|_| lane.start(NOW));
    assert!(!lane.lacks_slots(0, NOW), "nothing is due");
    lane.due(NOW);
    assert!(lane.lacks_slots(0, NOW));
    assert_eq!([lane.wake_at(0), lane.wake_at(1)], [None, Some(NOW)]);
    assert!(!lane.lacks_slots(0, NOW.before(Duration::from_millis(1))));
    assert!(!lane.lacks_slots(1, NOW), "a slot is free");
    lane.limits.concurrency = 2;
    assert!(!lane.lacks_slots(0, NOW), "that is its own limit");
    let mut open = opened();
    open.start(NOW);
    open.start(NOW);
    assert!(!open.lacks_slots(0, NOW), "it waits for its probe");
}
