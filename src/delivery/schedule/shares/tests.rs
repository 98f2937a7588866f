//! Turns and slots, without a store.

use super::*;

fn destination(name: &str) -> Destination {
    Destination::parse(&format!("http://{name}")).unwrap()
}

/// The shares of a loop with this many slots.
struct Loop {
    shares: Shares,
    now: Instant,
}

impl Loop {
    fn new(slots: usize) -> Self {
        let now = Instant::now();
        Self { shares: Shares::new(slots, now), now }
    }

    fn push(&mut self, name: &str, level: Level) {
        self.shares.push(destination(name), level);
    }

    fn next(&mut self) -> Option<(String, usize)> {
        let turn = self.shares.next(usize::MAX, self.now)?;
        Some((turn.destination.host().to_owned(), turn.share))
    }

    /// Fills the slots with attempts of a level as far as it may, one destination each.
    fn fill(&mut self, level: Level) -> Vec<Slot> {
        let mut slots = Vec::new();
        loop {
            self.push("x", level);
            let Some(turn) = self.shares.next(1, self.now) else { return slots };
            slots.push(self.shares.start(&turn, self.now));
        }
    }

    fn start_quick(&mut self) -> Slot {
        self.push("good", Level(0));
        let turn = self.shares.next(1, self.now).unwrap();
        assert_eq!(turn.destination, destination("good"));
        self.shares.start(&turn, self.now)
    }

    /// The destinations that are served if each attempt ends immediately, until no destination has a
    /// turn.
    fn serve(&mut self, health: DestinationHealth) -> Vec<String> {
        let mut served = Vec::new();
        while let Some(turn) = self.shares.next(1, self.now) {
            let slot = self.shares.start(&turn, self.now);
            self.shares.end(slot, health, self.now);
            served.push(turn.destination.host().to_owned());
        }
        served
    }

    /// A thousand failed destinations, of which the maximum number have failed again.
    fn fail_all(&mut self) {
        (0..1000).for_each(|n| self.push(&format!("dead{n}"), SLOW));
        assert_eq!(self.serve(DestinationHealth::Failing).len(), AT_ONCE as usize);
    }
}

#[test]
fn each_level_leaves_an_eighth_of_the_slots_to_faster_ones() {
    for (level, most) in [(Level(0), 64), (NEW, 56), (SLOW, 48), (Level(3), 40)] {
        assert_eq!(Loop::new(64).fill(level).len(), most);
    }
    let mut slow_first = Loop::new(64);
    let counts = [Level(3), SLOW, NEW, Level(0)].map(|level| slow_first.fill(level).len());
    assert_eq!(counts, [40, 8, 8, 8]);
    let mut quick_first = Loop::new(64);
    assert_eq!(quick_first.fill(Level(0)).len(), 64);
    assert_eq!(quick_first.fill(Level(3)).len(), 0);
}

#[test]
fn a_single_slot_is_available_to_every_level() {
    for level in [Level(0), NEW, SLOW, Level(3)] {
        assert_eq!(Loop::new(1).fill(level).len(), 1);
    }
}

#[test]
fn a_long_attempt_counts_as_slow_while_it_runs() {
    let mut it = Loop::new(64);
    let slots = it.fill(NEW);
    assert_eq!(it.shares.wake_at(), Some(it.now + BOUNDS[0]));
    let mut seen = Vec::new();
    for bound in BOUNDS {
        it.now += bound;
        let risen = it.shares.risen(it.now);
        assert!(risen.iter().all(|(_, so_far)| *so_far <= bound), "{risen:?}");
        seen.push(risen.len());
    }
    assert_eq!((seen, it.shares.wake_at()), (vec![56; 3], None));
    assert_eq!((it.shares.held, it.shares.in_flight()), ([0, 0, 0, 56], 56));
    for slot in slots {
        it.shares.end(slot, DestinationHealth::Working, it.now);
    }
    assert_eq!(it.shares.held, [0; LEVELS]);
}

#[test]
fn an_ended_attempt_causes_no_wake_up() {
    let mut it = Loop::new(64);
    let slot = it.start_quick();
    assert_eq!(it.shares.wake_at(), Some(it.now + BOUNDS[0]));
    it.shares.end(slot, DestinationHealth::Working, it.now);
    assert_eq!(it.shares.wake_at(), None);
    assert!(it.shares.risen(it.now + BOUNDS[2]).is_empty());
}

#[test]
fn destinations_of_a_level_take_turns() {
    let mut it = Loop::new(64);
    it.now += 2 * EXPECTED;
    (0..8).for_each(|n| it.push(&format!("h{n}"), SLOW));
    assert_eq!(it.next(), Some(("h0".into(), 8)));
    assert_eq!(it.next(), Some(("h1".into(), 10)));
}

#[test]
fn a_fast_destination_waits_for_one_slower_one_at_a_time() {
    let mut it = Loop::new(8);
    (0..1000).for_each(|n| it.push(&format!("new{n}"), NEW));
    (0..1000).for_each(|n| it.push(&format!("dead{n}"), SLOW));
    let turns: Vec<_> = (0..100)
        .map(|_| {
            it.push("good", Level(0));
            it.next().unwrap()
        })
        .collect();
    let count = |name: &str| turns.iter().filter(|(it, _)| it.starts_with(name)).count();
    assert!((80..=86).contains(&count("good")), "{}", count("good"));
    assert!(count("new") > count("dead") && count("dead") >= 4, "{turns:?}");
    assert!(turns.iter().all(|(name, share)| name == "good" || *share == 1));
}

#[test]
fn an_idle_level_does_not_accumulate_turns() {
    let mut it = Loop::new(64);
    for _ in 0..1000 {
        it.push("good", Level(0));
        assert_eq!(it.next().map(|(name, _)| name), Some("good".into()));
    }
    (0..10).for_each(|n| it.push(&format!("new{n}"), NEW));
    let mut new = 0;
    for _ in 0..10 {
        it.push("good", Level(0));
        new += usize::from(it.next().is_some_and(|(name, _)| name != "good"));
    }
    assert!(new <= 2, "{new} of ten turns");
}

#[test]
fn failures_per_second_are_limited_while_fast_ones_have_work() {
    let mut it = Loop::new(64);
    let good = it.start_quick();
    it.fail_all();
    let wake_at = it.shares.wake_at().unwrap();
    assert_eq!(wake_at, it.now + PER_FAILURE);
    it.now = wake_at;
    assert_eq!(it.serve(DestinationHealth::Failing).len(), 1);
    it.now += 10 * PER_FAILURE;
    assert_eq!(it.serve(DestinationHealth::Failing).len(), 10);
    it.shares.end(good, DestinationHealth::Working, it.now);
    assert!(it.serve(DestinationHealth::Failing).is_empty());
    it.now += EXPECTED;
    assert_eq!(it.serve(DestinationHealth::Failing).len(), 1000 - AT_ONCE as usize - 11);
    assert_eq!(it.shares.wake_at(), None);
}

#[test]
fn destinations_that_recover_are_not_limited() {
    let mut it = Loop::new(64);
    it.start_quick();
    (0..1000).for_each(|n| it.push(&format!("back{n}"), SLOW));
    assert_eq!(it.serve(DestinationHealth::Working).len(), 1000);
}

#[test]
fn a_new_destination_does_not_wait_for_failing_ones() {
    let mut it = Loop::new(64);
    it.start_quick();
    it.fail_all();
    it.push("new", NEW);
    assert_eq!(it.serve(DestinationHealth::Failing), ["new"]);
}

#[test]
fn tickets_are_unique_and_have_a_level() {
    let mut it = Loop::new(8);
    let mut push = |level| it.shares.push(destination("a"), level);
    let (first, second) = (push(NEW), push(Level(0)));
    assert!(first.is_at(NEW) && !first.is_at(Level(0)) && first != second);
    let turn = it.shares.next(1, it.now).unwrap();
    assert!(turn.ticket == first || turn.ticket == second);
}

#[test]
fn as_many_limited_destinations_resume_as_there_are_spare_slots() {
    let mut it = Loop::new(8);
    let held = it.fill(NEW);
    for name in ["a", "b", "c"] {
        it.shares.wait_for_slots(destination(name), NEW);
    }
    assert!(!it.shares.has_resumable() && it.shares.take_resumable().is_empty());
    let spare = |it: &Loop| it.shares.spare(NEW);
    let mut ended = held.into_iter();
    while spare(&it) < 2 {
        it.shares.end(ended.next().unwrap(), DestinationHealth::Working, it.now);
    }
    assert!(it.shares.has_resumable());
    assert_eq!(it.shares.take_resumable(), [(destination("a"), NEW), (destination("b"), NEW)]);
    assert_eq!(it.shares.take_resumable(), [(destination("c"), NEW)]);
    assert!(!it.shares.has_resumable());
}

#[test]
fn a_turn_of_a_slower_destination_is_one_attempt_while_a_fast_one_has_work() {
    let mut it = Loop::new(64);
    it.push("new", NEW);
    assert_eq!(it.next(), Some(("new".into(), 56)));
    it.push("good", Level(0));
    assert_eq!(it.next(), Some(("good".into(), 64)));
    it.start_quick();
    it.push("new", NEW);
    assert_eq!(it.next(), Some(("new".into(), 1)));
}

#[test]
fn a_fast_destination_has_work_while_it_waits_runs_or_is_expected() {
    let mut it = Loop::new(64);
    let has_work = |it: &Loop| it.shares.disturbs(it.now);
    assert!(!has_work(&it));
    it.push("good", Level(0));
    assert!(has_work(&it), "it waits");
    let turn = it.shares.next(1, it.now).unwrap();
    let slot = it.shares.start(&turn, it.now);
    assert!(has_work(&it), "it runs");
    it.now += EXPECTED;
    assert!(has_work(&it), "it still runs");
    it.shares.end(slot, DestinationHealth::Working, it.now);
    assert!(!has_work(&it));
    let slot = it.start_quick();
    it.shares.end(slot, DestinationHealth::Working, it.now);
    assert!(has_work(&it), "it is expected");
}

#[test]
fn a_pause_of_any_length_allows_no_more_failures_at_once() {
    let mut it = Loop::new(64);
    it.now += Duration::from_secs(60);
    it.start_quick();
    it.fail_all();
    it.now += Duration::from_secs(60);
    assert_eq!(it.serve(DestinationHealth::Failing).len(), AT_ONCE as usize);
}

#[test]
fn the_limit_of_failures_causes_no_wake_up_while_no_slow_destination_waits() {
    let mut it = Loop::new(64);
    it.start_quick();
    (0..AT_ONCE).for_each(|n| it.push(&format!("dead{n}"), SLOW));
    assert_eq!(it.serve(DestinationHealth::Failing).len(), AT_ONCE as usize);
    assert_eq!(it.shares.wake_at(), Some(it.now + BOUNDS[0]), "the fast one's attempt");
}

#[test]
fn a_ticket_is_not_that_of_an_earlier_turn() {
    let mut shares = Loop::new(16).shares;
    let [first, second] = [(); 2].map(|()| shares.push(destination("a"), NEW));
    assert_ne!(first, second);
}

#[test]
fn a_changed_number_of_slots_is_in_effect_at_once_and_ends_no_attempt() {
    let mut it = Loop::new(8);
    let held = it.fill(Level(0));
    it.shares.resize(16);
    assert_eq!(it.fill(Level(0)).len(), 8);
    it.shares.resize(4);
    assert_eq!((it.fill(Level(0)).len(), it.shares.in_flight()), (0, 16));
    for slot in held {
        it.shares.end(slot, DestinationHealth::Working, it.now);
    }
    assert_eq!((it.fill(Level(0)).len(), it.shares.in_flight()), (0, 8), "there are twice as many");
}
