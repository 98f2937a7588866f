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
mod tests;
