//! Whose turn it is, and how many slots it may take: one rule for destinations that are quick,
//! slow, dead or new.
//!
//! What counts is for how long a destination's attempts have held their slots lately ([`Pace`](crate::delivery::schedule::pace::Pace)). An
//! attempt that failed counts as one that held its slot for a while, since it delivered nothing. So
//! each destination has a [`Level`], and an attempt that runs for longer than its level allows rises
//! to the next one while it runs.
//!
//! - **Slots.** A slot that is taken is taken for as long as the receiver likes. So each level leaves
//!   an eighth of all slots to those that are quicker: whatever the slow ones hold, a quick one finds
//!   a slot. How a new destination answers is not known, and one that was quick may stall. So once half
//!   of the slots are taken, a destination holds [`AT_FIRST`](crate::delivery::schedule::pace::AT_FIRST), until it is known
//!   to be slow.
//! - **Turns.** Starting an attempt takes the loop's time. The levels have turns in proportion to
//!   [`STRIDES`]; the destinations of a level follow each other. While quick ones have work, a turn of
//!   a slower one is one attempt, and of the slowest levels only 250 attempts a second may fail: one
//!   that fails costs twice what a delivered callback does.
//!
//! A destination has one ticket, and its [`Ticket`] says which: one whose level has changed gets a new
//! one, and what is found at the old one is passed over.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::pace::{BOUNDS, EXPECTED, LEVELS, Level, NEW, SLOW};
use crate::{callback::Destination, delivery::outcome::DestinationHealth};

/// How many slots each level leaves to the quicker ones: all of them divided by this.
const LEFT: usize = 8;

/// How far apart the turns of a level are: the quick ones have four of five.
const STRIDES: [u64; LEVELS] = [1, 8, 16, 16];

/// While quick destinations have work, one of the slow ones may fail once in this time.
const PER_FAILURE: Duration = Duration::from_millis(4);

/// How many failures may come at once after a pause.
const AT_ONCE: u32 = 32;

/// A ticket in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    number: u64,
    level: Level,
}

impl Ticket {
    /// Whether it is one among those of this level.
    pub(crate) fn is_at(self, level: Level) -> bool {
        self.level == level
    }
}

/// A turn of a destination.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) destination: Destination,
    pub(crate) ticket: Ticket,
    /// How many attempts it may start at most.
    pub(crate) share: usize,
    /// Its failure is paid for.
    paid: bool,
}

/// A slot while an attempt holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    number: u64,
    taken: Instant,
    paid: bool,
}

/// An attempt that is under way.
#[derive(Debug)]
struct Running {
    destination: Destination,
    level: Level,
}

/// Who is served next, and who holds slots.
#[derive(Debug)]
pub(crate) struct Shares {
    slots: usize,
    lines: [VecDeque<(Destination, Ticket)>; LEVELS],
    /// How many tickets there have been.
    tickets: u64,
    /// When each level has its next turn, and when the last turn was, in strides.
    turns: [u64; LEVELS],
    last_turn: u64,
    /// Those that could start more of this level, were more slots free, in the order in which they
    /// came; one whose level has changed since is passed over.
    limited: [VecDeque<Destination>; LEVELS],
    running: HashMap<u64, Running>,
    /// How many slots there have been.
    taken: u64,
    /// How many of the attempts under way are of each level.
    held: [usize; LEVELS],
    /// The attempts under way that may pass the bound with this index, the first one first; some
    /// have ended.
    rising: [VecDeque<Slot>; LEVELS - 1],
    /// Until when another attempt to a quick one is expected.
    expected: Instant,
    /// How many of the slow ones may fail now, and when it was last one more.
    may_fail: u32,
    paid_until: Instant,
}

impl Shares {
    /// Shares of so many slots.
    pub(crate) fn new(slots: usize, now: Instant) -> Self {
        Self {
            slots,
            lines: Default::default(),
            tickets: 0,
            turns: [0; LEVELS],
            last_turn: 0,
            limited: Default::default(),
            running: HashMap::new(),
            taken: 0,
            held: [0; LEVELS],
            rising: Default::default(),
            expected: now,
            may_fail: AT_ONCE,
            paid_until: now,
        }
    }

    /// How many attempts are under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.running.len()
    }

    /// How many more slots a destination of this level may take that leaves half of all to others.
    pub(crate) fn spare(&self, level: Level) -> usize {
        (self.slots / 2).saturating_sub(self.held_from(level))
    }

    /// Notes that a destination of this level could start more, were there any to spare. It is given
    /// back once, by [`Shares::unlimited`].
    pub(crate) fn limit(&mut self, destination: Destination, level: Level) {
        self.limited[level.0].push_back(destination);
    }

    /// Gives the destinations that were limited and may be no more, with the level that they were
    /// limited at. As many as there are slots to spare: each will take one.
    pub(crate) fn unlimited(&mut self) -> Vec<(Destination, Level)> {
        let mut found = Vec::new();
        for level in (0..LEVELS).map(Level) {
            let may = self.spare(level).saturating_sub(found.len());
            let limited = &mut self.limited[level.0];
            let may = may.min(limited.len());
            found.extend(limited.drain(..may).map(|it| (it, level)));
        }
        found
    }

    /// Whether [`Shares::unlimited`] has something to give.
    pub(crate) fn has_unlimited(&self) -> bool {
        (0..LEVELS).map(Level).any(|it| !self.limited[it.0].is_empty() && self.spare(it) > 0)
    }

    /// How many slots this level and the slower ones hold.
    fn held_from(&self, level: Level) -> usize {
        self.held[level.0..].iter().sum()
    }

    /// Puts a destination at the end of its level's line.
    pub(crate) fn push(&mut self, destination: Destination, level: Level) -> Ticket {
        if self.lines[level.0].is_empty() {
            // A level that had nothing to do has saved no turns.
            self.turns[level.0] = self.turns[level.0].max(self.last_turn);
        }
        self.tickets += 1;
        let ticket = Ticket { number: self.tickets, level };
        self.lines[level.0].push_back((destination, ticket));
        ticket
    }

    /// Whose turn it is, where at most `room` attempts may start.
    pub(crate) fn next(&mut self, room: usize, now: Instant) -> Option<Turn> {
        self.pay(now);
        let disturbs = self.disturbs(now);
        let slow_may = !disturbs || self.may_fail > 0;
        let (at, budget) = (0..LEVELS)
            .filter(|at| !self.lines[*at].is_empty() && (*at < SLOW.0 || slow_may))
            .map(|at| (at, self.budget(Level(at)).min(room)))
            .filter(|(_, budget)| *budget > 0)
            .min_by_key(|(at, _)| self.turns[*at])?;
        self.last_turn = self.turns[at];
        self.turns[at] += STRIDES[at];
        let (destination, ticket) = self.lines[at].pop_front()?;
        let fair = self.slots.div_ceil(self.lines[at].len() + 1).min(budget);
        let share = if at > 0 && disturbs { 1 } else { fair };
        let paid = at >= SLOW.0 && disturbs;
        self.may_fail -= u32::from(paid);
        Some(Turn { destination, ticket, share, paid })
    }

    /// How many attempts of this level may start: it leaves some slots to the quicker ones. Whether
    /// those under way to new destinations are slow is not known yet, so they count as well.
    fn budget(&self, level: Level) -> usize {
        let left = level.0 * (self.slots / LEFT);
        let free = self.slots.saturating_sub(self.running.len());
        (self.slots - left).saturating_sub(self.held_from(level.min(NEW))).min(free)
    }

    /// When something may change that nobody tells: an attempt has been under way for longer, or one
    /// of the slow ones may fail again.
    pub(crate) fn wake_at(&mut self) -> Option<Instant> {
        let Self { rising, running, .. } = self;
        let risen = rising.iter_mut().zip(BOUNDS).filter_map(|(rising, bound)| {
            while rising.front().is_some_and(|slot| !running.contains_key(&slot.number)) {
                rising.pop_front();
            }
            rising.front().map(|slot| slot.taken + bound)
        });
        let waits = self.lines[SLOW.0..].iter().any(|line| !line.is_empty());
        let failure = (waits && self.may_fail == 0).then(|| self.paid_until + PER_FAILURE);
        risen.chain(failure).min()
    }

    /// An attempt starts.
    pub(crate) fn start(&mut self, turn: &Turn, now: Instant) -> Slot {
        let slot = Slot { number: self.taken, taken: now, paid: turn.paid };
        self.taken += 1;
        let level = turn.ticket.level;
        let destination = turn.destination.clone();
        self.held[level.0] += 1;
        self.running.insert(slot.number, Running { destination, level });
        self.rising[0].push_back(slot);
        if level.0 == 0 {
            self.expected = now + EXPECTED;
        }
        slot
    }

    /// It has ended; says for how long it held its slot.
    pub(crate) fn end(&mut self, slot: Slot, health: DestinationHealth, now: Instant) -> Duration {
        if let Some(running) = self.running.remove(&slot.number) {
            self.held[running.level.0] -= 1;
        }
        let refund = slot.paid && health != DestinationHealth::Failing;
        self.may_fail = AT_ONCE.min(self.may_fail + u32::from(refund));
        now.duration_since(slot.taken)
    }

    /// Gives each destination one of whose attempts has held its slot for longer than its level
    /// allows by now, and for how long that is at least.
    pub(crate) fn risen(&mut self, now: Instant) -> Vec<(Destination, Duration)> {
        let mut risen = Vec::new();
        for (at, bound) in BOUNDS.into_iter().enumerate() {
            while let Some(slot) = self.rising[at].pop_front() {
                let Some(running) = self.running.get_mut(&slot.number) else { continue };
                if slot.taken + bound > now {
                    self.rising[at].push_front(slot);
                    break;
                }
                let reached = Level(at + 1);
                if running.level < reached {
                    self.held[running.level.0] -= 1;
                    self.held[reached.0] += 1;
                    running.level = reached;
                }
                risen.push((running.destination.clone(), bound));
                if let Some(next) = self.rising.get_mut(at + 1) {
                    next.push_back(slot);
                }
            }
        }
        risen
    }

    /// Whether an attempt of a slower one takes something from quick ones.
    fn disturbs(&self, now: Instant) -> bool {
        self.held[0] > 0 || !self.lines[0].is_empty() || now < self.expected
    }

    fn pay(&mut self, now: Instant) {
        while self.may_fail < AT_ONCE && self.paid_until + PER_FAILURE <= now {
            self.may_fail += 1;
            self.paid_until += PER_FAILURE;
        }
        if self.may_fail == AT_ONCE {
            self.paid_until = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(name: &str) -> Destination {
        Destination::parse(&format!("http://{name}")).unwrap()
    }

    /// The shares of a loop with so many slots.
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

        /// Who is served when each attempt is over at once, until nobody has a turn.
        fn serve(&mut self, health: DestinationHealth) -> Vec<String> {
            let mut served = Vec::new();
            while let Some(turn) = self.shares.next(1, self.now) {
                let slot = self.shares.start(&turn, self.now);
                self.shares.end(slot, health, self.now);
                served.push(turn.destination.host().to_owned());
            }
            served
        }

        /// A thousand that failed, of which as many have failed again as may.
        fn fail_all(&mut self) {
            (0..1000).for_each(|n| self.push(&format!("dead{n}"), SLOW));
            assert_eq!(self.serve(DestinationHealth::Failing).len(), AT_ONCE as usize);
        }
    }

    #[test]
    fn each_level_leaves_an_eighth_of_the_slots_to_the_quicker_ones() {
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
    fn a_single_slot_is_anybodys() {
        for level in [Level(0), NEW, SLOW, Level(3)] {
            assert_eq!(Loop::new(1).fill(level).len(), 1);
        }
    }

    #[test]
    fn an_attempt_that_takes_long_counts_as_a_slow_one_while_it_runs() {
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
            it.shares.end(slot, DestinationHealth::Answered, it.now);
        }
        assert_eq!(it.shares.held, [0; LEVELS]);
    }

    #[test]
    fn an_attempt_that_has_ended_wakes_nobody() {
        let mut it = Loop::new(64);
        let slot = it.start_quick();
        assert_eq!(it.shares.wake_at(), Some(it.now + BOUNDS[0]));
        it.shares.end(slot, DestinationHealth::Answered, it.now);
        assert_eq!(it.shares.wake_at(), None);
        assert!(it.shares.risen(it.now + BOUNDS[2]).is_empty());
    }

    #[test]
    fn the_destinations_of_a_level_share_what_it_has() {
        let mut it = Loop::new(64);
        it.now += 2 * EXPECTED;
        (0..8).for_each(|n| it.push(&format!("h{n}"), SLOW));
        assert_eq!(it.next(), Some(("h0".into(), 8)));
        assert_eq!(it.next(), Some(("h1".into(), 10)));
    }

    #[test]
    fn a_quick_destination_waits_for_a_slower_one_now_and_then_and_not_for_all_of_them() {
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
    fn a_level_that_had_nothing_to_do_has_saved_no_turns() {
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
    fn only_so_many_fail_in_a_second_while_quick_ones_have_work() {
        let mut it = Loop::new(64);
        let good = it.start_quick();
        it.fail_all();
        let wake_at = it.shares.wake_at().unwrap();
        assert_eq!(wake_at, it.now + PER_FAILURE);
        it.now = wake_at;
        assert_eq!(it.serve(DestinationHealth::Failing).len(), 1);
        it.now += 10 * PER_FAILURE;
        assert_eq!(it.serve(DestinationHealth::Failing).len(), 10);
        it.shares.end(good, DestinationHealth::Answered, it.now);
        assert!(it.serve(DestinationHealth::Failing).is_empty());
        it.now += EXPECTED;
        assert_eq!(it.serve(DestinationHealth::Failing).len(), 1000 - AT_ONCE as usize - 11);
        assert_eq!(it.shares.wake_at(), None);
    }

    #[test]
    fn those_that_answer_after_all_are_not_held_up() {
        let mut it = Loop::new(64);
        it.start_quick();
        (0..1000).for_each(|n| it.push(&format!("back{n}"), SLOW));
        assert_eq!(it.serve(DestinationHealth::Answered).len(), 1000);
    }

    #[test]
    fn a_new_destination_does_not_wait_behind_those_that_failed() {
        let mut it = Loop::new(64);
        it.start_quick();
        it.fail_all();
        it.push("new", NEW);
        assert_eq!(it.serve(DestinationHealth::Failing), ["new"]);
    }

    #[test]
    fn a_place_is_one_of_its_level_and_no_two_are_the_same() {
        let mut it = Loop::new(8);
        let mut push = |level| it.shares.push(destination("a"), level);
        let (first, second) = (push(NEW), push(Level(0)));
        assert!(first.is_at(NEW) && !first.is_at(Level(0)) && first != second);
        let turn = it.shares.next(1, it.now).unwrap();
        assert!(turn.ticket == first || turn.ticket == second);
    }

    #[test]
    fn as_many_of_those_that_are_limited_come_back_as_there_are_slots_to_spare() {
        let mut it = Loop::new(8);
        let held = it.fill(NEW);
        for name in ["a", "b", "c"] {
            it.shares.limit(destination(name), NEW);
        }
        assert!(!it.shares.has_unlimited() && it.shares.unlimited().is_empty());
        let spare = |it: &Loop| it.shares.spare(NEW);
        let mut ended = held.into_iter();
        while spare(&it) < 2 {
            it.shares.end(ended.next().unwrap(), DestinationHealth::Answered, it.now);
        }
        assert!(it.shares.has_unlimited());
        assert_eq!(it.shares.unlimited(), [(destination("a"), NEW), (destination("b"), NEW)]);
        assert_eq!(it.shares.unlimited(), [(destination("c"), NEW)]);
        assert!(!it.shares.has_unlimited());
    }
}
