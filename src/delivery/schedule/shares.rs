//! Turns and slots: one rule for destinations that are fast, slow, failing or new.
//!
//! The rule depends on how long a destination's recent attempts have held their slots
//! ([`Pace`](crate::delivery::schedule::pace::Pace)). A failed attempt counts as a minimum time,
//! because it delivered nothing. This gives each destination a [`Level`]. An attempt that runs longer
//! than its level allows moves to the next level while it runs.
//!
//! - **Slots.** The receiver determines how long a slot is held. Therefore each level leaves an eighth
//!   of all slots to the faster levels: however many slots slow destinations hold, a fast one finds a
//!   slot. A new destination may be slow, and a fast one may stall. Therefore, once half of all slots
//!   are taken, a destination that is not known to be slow holds at most
//!   [`AT_FIRST`](crate::delivery::schedule::pace::AT_FIRST) slots.
//! - **Turns.** Starting an attempt takes time of the loop. Levels have turns in proportion to
//!   [`STRIDES`] (stride scheduling); within a level, destinations take turns. While fast destinations
//!   have work, a turn of a slower one is one attempt, and the slowest levels may have 250 failed
//!   attempts per second: a failed attempt costs twice as much as a delivered one.
//!
//! A destination that waits for a turn has one [`Ticket`]. If its level changes, it gets a new one, and
//! the old one is skipped.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::pace::{BOUNDS, EXPECTED, LEVELS, Level, NEW, SLOW};
use crate::{callback::Destination, delivery::outcome::DestinationHealth};

/// Each level leaves the number of slots divided by this to the faster levels.
const LEFT: usize = 8;

/// The distance between two turns of each level: the fastest has four of five turns.
const STRIDES: [u64; LEVELS] = [1, 8, 16, 16];

/// While fast destinations have work, slow ones may have one failed attempt in this time.
const PER_FAILURE: Duration = Duration::from_millis(4);

/// Maximum number of failed attempts that are allowed at once after a pause.
const AT_ONCE: u32 = 32;

/// The position of a destination that waits for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    number: u64,
    level: Level,
}

impl Ticket {
    /// Whether it is for a turn of this level.
    pub(crate) fn is_at(self, level: Level) -> bool {
        self.level == level
    }
}

/// A turn of a destination.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) destination: Destination,
    pub(crate) ticket: Ticket,
    /// Maximum number of attempts to start.
    pub(crate) share: usize,
    /// Whether it counts toward the limit of failed attempts.
    paid: bool,
}

/// A slot while an attempt holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    number: u64,
    taken: Instant,
    paid: bool,
}

/// An attempt in progress.
#[derive(Debug)]
struct Running {
    destination: Destination,
    level: Level,
}

/// Turns and slots of all destinations.
#[derive(Debug)]
pub(crate) struct Shares {
    slots: usize,
    lines: [VecDeque<(Destination, Ticket)>; LEVELS],
    /// Number of tickets so far.
    tickets: u64,
    /// The next turn of each level, and the last turn, in strides.
    turns: [u64; LEVELS],
    last_turn: u64,
    /// By level: destinations that could start more if more slots were free, in order of arrival. A
    /// destination whose level has changed since then is skipped.
    waiting: [VecDeque<Destination>; LEVELS],
    running: HashMap<u64, Running, RandomState>,
    /// Number of slots taken so far.
    taken: u64,
    /// Slots held by each level.
    held: [usize; LEVELS],
    /// By level: attempts in progress that may exceed its time, oldest first; some have ended.
    rising: [VecDeque<Slot>; LEVELS - 1],
    /// Until when another attempt to a fast destination is expected.
    expected: Instant,
    /// Failed attempts that slow destinations may have now, and when that number was last increased.
    may_fail: u32,
    paid_until: Instant,
}

impl Shares {
    /// Creates shares of `slots` slots.
    pub(crate) fn new(slots: usize, now: Instant) -> Self {
        Self {
            slots,
            lines: Default::default(),
            tickets: 0,
            turns: [0; LEVELS],
            last_turn: 0,
            waiting: Default::default(),
            running: HashMap::default(),
            taken: 0,
            held: [0; LEVELS],
            rising: Default::default(),
            expected: now,
            may_fail: AT_ONCE,
            paid_until: now,
        }
    }

    /// Changes the number of slots. Attempts in progress keep theirs.
    pub(crate) fn resize(&mut self, slots: usize) {
        self.slots = slots;
    }

    /// Number of attempts in progress.
    pub(crate) fn in_flight(&self) -> usize {
        self.running.len()
    }

    /// How many more slots a destination of this level may take while half of all slots stay free.
    pub(crate) fn spare(&self, level: Level) -> usize {
        (self.slots / 2).saturating_sub(self.held_from(level))
    }

    /// Registers a destination of this level that could start more if there were spare slots.
    /// [`Shares::take_resumable`] returns it once.
    pub(crate) fn wait_for_slots(&mut self, destination: Destination, level: Level) {
        self.waiting[level.0].push_back(destination);
    }

    /// Returns destinations that waited for slots and may start more now, with the level at which they
    /// waited: as many as there are spare slots, because each will take one.
    pub(crate) fn take_resumable(&mut self) -> Vec<(Destination, Level)> {
        let mut found = Vec::new();
        for level in (0..LEVELS).map(Level) {
            let may = self.spare(level).saturating_sub(found.len());
            let waiting = &mut self.waiting[level.0];
            let may = may.min(waiting.len());
            found.extend(waiting.drain(..may).map(|it| (it, level)));
        }
        found
    }

    /// Whether [`Shares::take_resumable`] would return any.
    pub(crate) fn has_resumable(&self) -> bool {
        (0..LEVELS).map(Level).any(|it| !self.waiting[it.0].is_empty() && self.spare(it) > 0)
    }

    /// Slots held by this level and slower ones.
    fn held_from(&self, level: Level) -> usize {
        self.held[level.0..].iter().sum()
    }

    /// Adds a destination to those of its level that wait for a turn.
    pub(crate) fn push(&mut self, destination: Destination, level: Level) -> Ticket {
        if self.lines[level.0].is_empty() {
            // A level without work does not accumulate turns.
            self.turns[level.0] = self.turns[level.0].max(self.last_turn);
        }
        self.tickets += 1;
        let ticket = Ticket { number: self.tickets, level };
        self.lines[level.0].push_back((destination, ticket));
        ticket
    }

    /// The next turn, if at most `room` attempts may start.
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

    /// Attempts of this level that may start, leaving slots to the faster levels. Attempts in progress
    /// to new destinations may turn out to be slow, so they are counted too.
    fn budget(&self, level: Level) -> usize {
        let left = level.0 * (self.slots / LEFT);
        let free = self.slots.saturating_sub(self.running.len());
        (self.slots - left).saturating_sub(self.held_from(level.min(NEW))).min(free)
    }

    /// When to check again without an event: an attempt exceeds the time of its level, or a slow
    /// destination may have another failed attempt.
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

    /// An attempt has ended. Returns how long it held its slot.
    pub(crate) fn end(&mut self, slot: Slot, health: DestinationHealth, now: Instant) -> Duration {
        if let Some(running) = self.running.remove(&slot.number) {
            self.held[running.level.0] -= 1;
        }
        let refund = slot.paid && health != DestinationHealth::Failing;
        self.may_fail = AT_ONCE.min(self.may_fail + u32::from(refund));
        now.duration_since(slot.taken)
    }

    /// Returns destinations with an attempt that exceeds the time of its level, and that time.
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

    /// Whether an attempt of a slower level would delay fast destinations.
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
