//! The destinations that have something due, in three lines: those that answered the last time,
//! those of which nothing is known, and those that failed. The last two are *in doubt*.
//!
//! In one line, ten thousand dead hosts would each have a turn before a good one has its next.
//! So while destinations that answer have work, those in doubt have a turn now and then, of one
//! attempt; and those that failed only so many in a second, since an attempt that fails costs
//! twice what a delivered callback does. Where it turns out that they answer after all, that
//! does not count. A new destination does not stand behind those that failed. And since a host
//! that hangs keeps its slots for as long as the time-out lets it, a quarter of all slots is
//! kept from those in doubt.
//!
//! A destination has one place, and its [`Place`] says which: one that has answered meanwhile
//! gets a new one among those that do, and what is found at the old one is passed over.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::lane::Health;
use crate::callback::Destination;

/// How many destinations are remembered as answering. When there are more, all are forgotten,
/// and are in doubt until their next answer.
const REMEMBERED: usize = 4096;

/// How many turns the others have between two of a destination in doubt.
const BETWEEN: u8 = 4;

/// While destinations that answer have work, one that failed may fail again once in this time.
const PER_FAILURE: Duration = Duration::from_millis(4);

/// How many failures may come at once after a pause.
const AT_ONCE: u32 = 32;

/// How long after the last attempt to a destination that answers the next one is expected.
const EXPECTED: Duration = Duration::from_millis(100);

/// Who is served next.
#[derive(Debug)]
pub(super) struct Lines {
    answering: VecDeque<(Destination, Place)>,
    unknown: VecDeque<(Destination, Place)>,
    failing: VecDeque<(Destination, Place)>,
    /// How many places there have been.
    places: u64,
    answered: HashSet<Destination>,
    /// How many turns ago one in doubt had its own.
    since_doubt: u8,
    /// Whose turn it is of those in doubt.
    failing_next: bool,
    /// How many attempts are under way to destinations in doubt, and to the others.
    doubtful: usize,
    trusted: usize,
    /// Until when another attempt to one that answers is expected.
    expected: Instant,
    /// How many of those that failed may fail again now, and when it was last one more.
    may_fail: u32,
    paid_until: Instant,
}

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

/// A turn of a destination.
pub(super) struct Turn {
    pub(super) destination: Destination,
    pub(super) place: Place,
    /// How many it may start at most.
    pub(super) share: usize,
    /// It is one of those that failed, and its failure is paid for.
    paid: bool,
}

/// What an attempt counts as while it is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stake {
    doubtful: bool,
    paid: bool,
}

impl Lines {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            answering: VecDeque::new(),
            unknown: VecDeque::new(),
            failing: VecDeque::new(),
            places: 0,
            answered: HashSet::new(),
            since_doubt: 0,
            failing_next: false,
            doubtful: 0,
            trusted: 0,
            expected: now,
            may_fail: AT_ONCE,
            paid_until: now,
        }
    }

    /// Puts it at the end of its line; `failed` says whether its last attempt did.
    pub(super) fn push(&mut self, destination: Destination, failed: bool) -> Place {
        let line = if self.answered.contains(&destination) {
            &mut self.answering
        } else if failed {
            &mut self.failing
        } else {
            &mut self.unknown
        };
        self.places += 1;
        line.push_back((destination, Place(self.places)));
        Place(self.places)
    }

    /// Whose turn it is, where so many slots are free of so many.
    pub(super) fn next(&mut self, free: usize, slots: usize, now: Instant) -> Option<Turn> {
        self.pay(now);
        if free == 0 {
            return None;
        }
        let for_doubt = (slots - slots / 4).saturating_sub(self.doubtful).min(free);
        let its_turn = self.since_doubt >= BETWEEN || self.answering.is_empty();
        let disturbs = self.disturbs(now);
        if for_doubt > 0
            && its_turn
            && let Some((destination, place, paid)) = self.next_in_doubt(disturbs)
        {
            self.since_doubt = 0;
            let in_doubt = self.unknown.len() + self.failing.len();
            let share = if disturbs { 1 } else { slots.div_ceil(in_doubt + 1).min(for_doubt) };
            return Some(Turn { destination, place, share, paid });
        }
        let (destination, place) = self.answering.pop_front()?;
        self.since_doubt = self.since_doubt.saturating_add(1);
        let share = slots.div_ceil(self.answering.len() + 1).min(free);
        Some(Turn { destination, place, share, paid: false })
    }

    /// When one that failed may have its turn that waits for nothing but that.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let waits = !self.failing.is_empty() && self.may_fail == 0;
        waits.then(|| self.paid_until + PER_FAILURE)
    }

    /// An attempt starts.
    pub(super) fn start(&mut self, turn: &Turn, now: Instant) -> Stake {
        let doubtful = !self.answered.contains(&turn.destination);
        if doubtful {
            self.doubtful += 1;
        } else {
            self.trusted += 1;
            self.expected = now + EXPECTED;
        }
        Stake { doubtful, paid: turn.paid }
    }

    /// It has ended. Says whether the destination answers now, and did not before.
    pub(super) fn end(&mut self, destination: &Destination, stake: Stake, health: Health) -> bool {
        if stake.doubtful {
            self.doubtful -= 1;
        } else {
            self.trusted -= 1;
        }
        let refund = stake.paid && health != Health::Failing;
        self.may_fail = AT_ONCE.min(self.may_fail + u32::from(refund));
        match health {
            Health::Answered if !self.answered.contains(destination) => {
                if self.answered.len() >= REMEMBERED {
                    self.answered.clear();
                }
                self.answered.insert(destination.clone())
            }
            Health::Failing => {
                self.answered.remove(destination);
                false
            }
            Health::Answered | Health::Unknown => false,
        }
    }

    /// Whether an attempt in doubt takes something from others.
    fn disturbs(&self, now: Instant) -> bool {
        self.trusted > 0 || !self.answering.is_empty() || now < self.expected
    }

    /// The two lines take turns, unless one is empty or has to wait. Says as well whether a
    /// failure was paid for; that is so even if the turn comes to nothing.
    fn next_in_doubt(&mut self, disturbs: bool) -> Option<(Destination, Place, bool)> {
        let failing = (!disturbs || self.may_fail > 0) && !self.failing.is_empty();
        if failing && (self.failing_next || self.unknown.is_empty()) {
            self.failing_next = false;
            self.may_fail -= u32::from(disturbs);
            return self.failing.pop_front().map(|(it, place)| (it, place, disturbs));
        }
        self.failing_next = true;
        self.unknown.pop_front().map(|(it, place)| (it, place, false))
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

    /// The lines of a loop with so many slots, where `good` has answered.
    struct Row {
        lines: Lines,
        slots: usize,
        now: Instant,
    }

    impl Row {
        fn new(slots: usize) -> Self {
            let now = Instant::now();
            let mut row = Self { lines: Lines::new(now), slots, now };
            row.push("good", false);
            assert_eq!(row.serve(Health::Answered), ["good"]);
            row
        }

        fn push(&mut self, name: &str, failed: bool) {
            self.lines.push(destination(name), failed);
        }

        fn next(&mut self, free: usize) -> Option<Turn> {
            self.lines.next(free, self.slots, self.now)
        }

        fn start(&mut self, turn: &Turn) -> Stake {
            self.lines.start(turn, self.now)
        }

        /// One attempt to `good` begins.
        fn start_good(&mut self) -> Stake {
            self.push("good", false);
            let turn = self.next(1).unwrap();
            assert_eq!(turn.destination, destination("good"));
            self.start(&turn)
        }

        fn end(&mut self, name: &str, stake: Stake, health: Health) -> bool {
            self.lines.end(&destination(name), stake, health)
        }

        /// A thousand that failed, of which as many have failed again as may.
        fn fail_all(&mut self) {
            for n in 0..1000 {
                self.push(&format!("dead{n}"), true);
            }
            assert_eq!(self.serve(Health::Failing).len(), AT_ONCE as usize);
        }

        /// Who is served when each attempt is over at once, until nobody has a turn.
        fn serve(&mut self, health: Health) -> Vec<String> {
            let mut served = Vec::new();
            while let Some(turn) = self.next(1) {
                let stake = self.start(&turn);
                self.lines.end(&turn.destination, stake, health);
                served.push(turn.destination.host().to_owned());
            }
            served
        }
    }

    fn shown(turn: Option<Turn>) -> Option<(String, usize)> {
        turn.map(|turn| (turn.destination.host().to_owned(), turn.share))
    }

    #[test]
    fn a_destination_that_answers_waits_for_one_in_doubt_and_not_for_all_of_them() {
        let mut row = Row::new(8);
        for n in 0..1000 {
            row.push(&format!("dead{n}"), false);
        }
        let mut turns = Vec::new();
        for _ in 0..12 {
            row.push("good", false);
            turns.extend(shown(row.next(8)));
        }
        let dead: Vec<_> = turns.iter().filter(|(name, _)| name != "good").collect();
        assert_eq!(dead, [&("dead0".to_owned(), 1), &("dead1".to_owned(), 1)]);
        assert_eq!(turns.iter().position(|(name, _)| name == "dead1"), Some(9));
    }

    #[test]
    fn destinations_in_doubt_never_have_all_slots() {
        let mut row = Row::new(8);
        for n in 0..8 {
            row.push(&format!("hangs{n}"), false);
        }
        row.now += EXPECTED;
        let mut stakes = Vec::new();
        for started in 0..6 {
            let turn = row.next(8 - started).unwrap();
            stakes.push(row.start(&turn));
        }
        assert!(row.next(2).is_none());
        row.push("good", false);
        assert_eq!(shown(row.next(2)), Some(("good".into(), 2)));
        row.end("hangs0", stakes[0], Health::Failing);
        assert_eq!(shown(row.next(3)), Some(("hangs6".into(), 1)));
    }

    #[test]
    fn a_single_slot_is_anybodys() {
        let mut row = Row::new(1);
        row.push("new", false);
        assert_eq!(shown(row.next(1)), Some(("new".into(), 1)));
    }

    #[test]
    fn only_so_many_fail_in_a_second_while_others_have_work() {
        let mut row = Row::new(64);
        let good = row.start_good();
        row.fail_all();
        let wake_at = row.lines.wake_at().unwrap();
        assert_eq!(wake_at, row.now + PER_FAILURE);
        row.now = wake_at;
        assert!(row.next(0).is_none());
        assert_eq!(row.lines.wake_at(), None, "it would be over at once");
        assert_eq!(row.serve(Health::Failing).len(), 1);
        row.now += 10 * PER_FAILURE;
        assert_eq!(row.serve(Health::Failing).len(), 10);
        row.end("good", good, Health::Answered);
        assert!(row.serve(Health::Failing).is_empty());
        row.now += EXPECTED;
        assert_eq!(row.serve(Health::Failing).len(), 1000 - AT_ONCE as usize - 11);
        assert_eq!(row.lines.wake_at(), None);
    }

    #[test]
    fn those_that_answer_after_all_are_not_held_up() {
        let mut row = Row::new(64);
        row.start_good();
        for n in 0..1000 {
            row.push(&format!("back{n}"), true);
        }
        assert_eq!(row.serve(Health::Answered).len(), 1000);
    }

    #[test]
    fn a_new_destination_does_not_wait_behind_those_that_failed() {
        let mut row = Row::new(64);
        row.start_good();
        row.fail_all();
        row.push("new", false);
        assert_eq!(row.serve(Health::Failing), ["new"]);
    }

    #[test]
    fn new_ones_that_answer_leave_no_room_for_more_failures() {
        let mut row = Row::new(64);
        row.start_good();
        row.fail_all();
        for n in 0..100 {
            row.push(&format!("new{n}"), false);
        }
        assert_eq!(row.serve(Health::Answered).len(), 100);
    }

    #[test]
    fn the_first_answer_is_told_so_that_the_destination_gets_another_place() {
        let mut row = Row::new(64);
        row.push("new", false);
        let turn = row.next(1).unwrap();
        let (first, second) = (row.start(&turn), row.start(&turn));
        let place = row.lines.push(destination("new"), false);
        assert!(row.end("new", first, Health::Answered));
        assert!(!row.end("new", second, Health::Answered));
        let other = row.lines.push(destination("new"), false);
        assert_ne!(place, other);
        assert_eq!(row.next(1).map(|turn| turn.place), Some(other));
    }
}
