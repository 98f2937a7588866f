//! The model: the guarantees of the outbox, implemented as simply as possible. All callbacks are in one map,
//! which is searched for every answer.
//!
//! One of the pending callbacks of a job is *active*: only it may be claimed. It stays active until its
//! attempt is settled or it has ended, or until an earlier one of the job is replayed while it is not
//! claimed; then the earliest becomes active.

use std::collections::{BTreeMap, BTreeSet};

use seal_dpf_urlcallback::{
    callback::Destination,
    clock::Timestamp,
    outbox::{Attempt, Failure, NewCallback, Open, Retention, Settlement, StateName},
};

/// A callback's position in the order of acceptance.
pub(super) type Number = usize;

/// The state of a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not due before `at`. If it is active, that is when it is due.
    Pending {
        at: Timestamp,
        turn: bool,
        claimed: bool,
    },
    Delivered(Timestamp),
    Failed(Timestamp),
}

/// A callback.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) number: Number,
    pub(super) new: NewCallback,
    pub(super) created_at: Timestamp,
    pub(super) state: State,
    pub(super) attempts: Vec<Attempt>,
    pub(super) budget_attempts: u32,
    pub(super) budget_since: Timestamp,
    pub(super) replays: u32,
    pub(super) last_error: Option<Failure>,
    /// The later callback of its job that was in flight when this one was replayed, or that preceded the
    /// earliest of its job then for the same reason.
    pub(super) overtaken_by: Option<Number>,
}

impl Stored {
    pub(super) fn job(&self) -> &str {
        &self.new.body.job_id
    }

    pub(super) fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending { .. })
    }

    pub(super) fn is_failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }

    pub(super) fn is_claimed(&self) -> bool {
        matches!(self.state, State::Pending { claimed: true, .. })
    }

    /// When it is due, if it may be claimed.
    pub(super) fn free_from(&self) -> Option<Timestamp> {
        match self.state {
            State::Pending { at, turn: true, claimed: false } => Some(at),
            _ => None,
        }
    }

    pub(super) fn finished(&self) -> Option<(StateName, Timestamp)> {
        match self.state {
            State::Pending { .. } => None,
            State::Delivered(at) => Some((StateName::Delivered, at)),
            State::Failed(at) => Some((StateName::Failed, at)),
        }
    }

    pub(super) fn state_name(&self) -> StateName {
        self.finished().map_or(StateName::Pending, |(state, _)| state)
    }

    fn attempted(&mut self, attempt: Attempt) {
        self.budget_attempts += 1;
        self.last_error = attempt.error.clone().or(self.last_error.take());
        self.attempts.push(attempt);
    }
}

/// The effect of an enqueue on one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Stored(Number),
    Duplicate(Number),
    NotKept,
}

/// The state of all callbacks.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) now: Timestamp,
    pub(super) kept: BTreeMap<Number, Stored>,
    pub(super) holds: BTreeMap<Destination, Timestamp>,
    /// Since when destinations are paused.
    pub(super) paused: BTreeMap<Destination, Timestamp>,
    pub(super) open: BTreeMap<Destination, Open>,
    /// Destinations that had nothing pending at some moment of the step.
    pub(super) idle: BTreeSet<Destination>,
    accepted: usize,
    max_pending: usize,
}

impl Model {
    pub(super) fn new(now: Timestamp, max_pending: usize) -> Self {
        Self {
            now,
            kept: BTreeMap::new(),
            holds: BTreeMap::new(),
            paused: BTreeMap::new(),
            open: BTreeMap::new(),
            idle: BTreeSet::new(),
            accepted: 0,
            max_pending,
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.kept.values().filter(|it| it.is_pending()).count()
    }

    pub(super) fn has_room_for(&self, more: usize) -> bool {
        self.pending() + more <= self.max_pending
    }

    /// `None` if there is no room for all of them; then none is stored.
    pub(super) fn enqueue(&mut self, batch: Vec<NewCallback>) -> Option<Vec<Taken>> {
        let mut keys = BTreeSet::new();
        let known: BTreeSet<_> =
            self.kept.values().filter_map(|it| it.new.event_id.clone()).collect();
        // Duplicates are always answered, and callbacks that can never be sent are not pending.
        let is_new = |new: &&NewCallback| {
            new.event_id.as_ref().is_none_or(|key| !known.contains(key) && keys.insert(key.clone()))
        };
        let new = batch.iter().filter(is_new).filter(|new| new.refusal.is_none()).count();
        let room = new == 0 || self.has_room_for(new);
        room.then(|| batch.into_iter().map(|new| self.accept(new)).collect())
    }

    fn accept(&mut self, new: NewCallback) -> Taken {
        let same = |it: &&Stored| new.event_id.is_some() && it.new.event_id == new.event_id;
        if let Some(known) = self.kept.values().find(same) {
            return Taken::Duplicate(known.number);
        }
        let failed = self.kept.values().filter(|it| it.is_failed()).count();
        if new.refusal.is_some() && failed >= self.max_pending {
            return Taken::NotKept;
        }
        let number = self.accepted;
        self.accepted += 1;
        let state = if new.refusal.is_some() {
            State::Failed(self.now)
        } else {
            let turn = self.earliest(&new.body.job_id).is_none();
            State::Pending { at: self.now, turn, claimed: false }
        };
        let stored = Stored {
            number,
            created_at: self.now,
            state,
            attempts: Vec::new(),
            budget_attempts: 0,
            budget_since: self.now,
            replays: 0,
            last_error: new.refusal.clone(),
            overtaken_by: None,
            new,
        };
        self.kept.insert(number, stored);
        Taken::Stored(number)
    }

    /// Returns the callback as it is then.
    pub(super) fn settle(&mut self, number: Number, settlement: Settlement) -> Stored {
        let now = self.now;
        let stored = self.kept.get_mut(&number).unwrap();
        let job = stored.job().to_owned();
        match settlement {
            Settlement::Delivered(attempt) => {
                stored.attempted(attempt);
                stored.state = State::Delivered(now);
            }
            Settlement::Retry { attempt, due, hold } => {
                stored.attempted(attempt);
                stored.state = State::Pending { at: due, turn: false, claimed: false };
                self.hold(number, hold);
                // The first callback of a job keeps its exact time even if that has passed.
                if self.earliest(&job) == Some(number) {
                    self.set(number, State::Pending { at: due, turn: true, claimed: false });
                }
            }
            Settlement::Failed { attempt, failure, hold } => {
                attempt.into_iter().for_each(|attempt| stored.attempted(attempt));
                stored.last_error = Some(failure);
                stored.state = State::Failed(now);
                self.hold(number, hold);
            }
        }
        self.pass_turn(&job);
        self.note_idle();
        self.kept[&number].clone()
    }

    fn hold(&mut self, number: Number, hold: Option<Timestamp>) {
        if let Some(until) = hold {
            let destination = self.kept[&number].new.destination.clone();
            let known = self.holds.entry(destination).or_insert(until);
            *known = until.max(*known);
        }
    }

    pub(super) fn claim(&mut self, number: Number) {
        let stored = self.kept.get_mut(&number).unwrap();
        let State::Pending { claimed, .. } = &mut stored.state else { unreachable!() };
        *claimed = true;
    }

    pub(super) fn release(&mut self, number: Number) {
        let stored = self.kept.get_mut(&number).unwrap();
        let State::Pending { claimed, .. } = &mut stored.state else { unreachable!() };
        *claimed = false;
    }

    /// Claimed callbacks are due again; state that was only in memory is lost.
    pub(super) fn reopen(&mut self) {
        let claimed: Vec<_> =
            self.kept.values().filter(|it| it.is_claimed()).map(|it| it.number).collect();
        claimed.into_iter().for_each(|number| self.release(number));
        self.open.clear();
    }

    pub(super) fn replay(&mut self, numbers: &[Number]) -> u64 {
        numbers.iter().map(|number| u64::from(self.replay_one(*number))).sum()
    }

    fn replay_one(&mut self, number: Number) -> bool {
        let Some(stored) = self.kept.get(&number).filter(|it| it.is_failed()) else { return false };
        let job = stored.job().to_owned();
        let earliest = self.earliest(&job).is_none_or(|other| other > number);
        let holder = self.holder(&job).cloned();
        let under_way = holder.as_ref().filter(|it| it.is_claimed()).map(|it| it.number);
        let turn = earliest && under_way.is_none();
        let before = self.earliest(&job).and_then(|first| self.kept[&first].overtaken_by);
        let kept = before.filter(|by| {
            !turn && *by > number && holder.as_ref().is_some_and(|it| it.number == *by)
        });
        if turn && let Some(holder) = holder {
            let at = holder.free_from().unwrap();
            self.set(holder.number, State::Pending { at, turn: false, claimed: false });
        }
        let now = self.now;
        let stored = self.kept.get_mut(&number).unwrap();
        stored.state = State::Pending { at: now, turn, claimed: false };
        stored.budget_attempts = 0;
        stored.budget_since = now;
        stored.replays += 1;
        stored.overtaken_by = under_way.or(kept);
        true
    }

    /// Returns those that ended, each as it is then.
    pub(super) fn expire(&mut self, cutoff: Timestamp, failure: &Failure) -> Vec<Stored> {
        let old = |it: &&Stored| {
            it.is_pending()
                && !it.is_claimed()
                && it.budget_since < cutoff
                && !self.paused.contains_key(&it.new.destination)
        };
        let old: Vec<_> = self.kept.values().filter(old).map(|it| it.number).collect();
        old.iter().for_each(|number| self.end(*number, failure.clone()));
        old.iter().map(|number| self.kept[number].clone()).collect()
    }

    pub(super) fn end(&mut self, number: Number, failure: Failure) {
        let stored = self.kept.get_mut(&number).unwrap();
        stored.state = State::Failed(self.now);
        stored.last_error = Some(failure);
        let job = stored.job().to_owned();
        self.pass_turn(&job);
        self.note_idle();
    }

    pub(super) fn purge(&mut self, retention: Retention) -> u64 {
        let before = self.kept.len();
        let now = self.now;
        self.kept.retain(|_, it| match it.state {
            State::Pending { .. } => true,
            State::Delivered(at) => at > now.before(retention.delivered),
            State::Failed(at) => at > now.before(retention.failed),
        });
        self.note_idle();
        (before - self.kept.len()) as u64
    }

    fn set(&mut self, number: Number, state: State) {
        self.kept.get_mut(&number).unwrap().state = state;
    }

    fn of_job(&self, job: &str) -> impl Iterator<Item = &Stored> {
        self.kept.values().filter(move |it| it.is_pending() && it.job() == job)
    }

    /// The earliest accepted pending callback of a job.
    pub(super) fn earliest(&self, job: &str) -> Option<Number> {
        self.of_job(job).map(|it| it.number).next()
    }

    /// The active callback.
    pub(super) fn holder(&self, job: &str) -> Option<&Stored> {
        self.of_job(job).find(|it| matches!(it.state, State::Pending { turn: true, .. }))
    }

    /// If no callback is active, the earliest becomes active, and is due now or later.
    fn pass_turn(&mut self, job: &str) {
        if self.holder(job).is_some() {
            return;
        }
        let Some(number) = self.earliest(job) else { return };
        let State::Pending { at, .. } = self.kept[&number].state else { return };
        let at = at.max(self.now);
        self.set(number, State::Pending { at, turn: true, claimed: false });
    }

    /// The callback that must end before `stored` may be claimed: the previous one; for the earliest, the
    /// active one.
    pub(super) fn waits_for(&self, stored: &Stored) -> Option<Number> {
        let State::Pending { turn: false, .. } = stored.state else { return None };
        let before = self.of_job(stored.job()).take_while(|it| it.number < stored.number).last();
        Some(before.or_else(|| self.holder(stored.job())).unwrap().number)
    }

    /// When a destination has something to claim, considering its hold.
    pub(super) fn next_due(&self, destination: &Destination) -> Option<Timestamp> {
        if self.paused.contains_key(destination) {
            return None;
        }
        let hold = self.holds.get(destination).copied().unwrap_or_default();
        self.to(destination).filter_map(Stored::free_from).min().map(|at| at.max(hold))
    }

    pub(super) fn to<'a>(&'a self, to: &'a Destination) -> impl Iterator<Item = &'a Stored> {
        self.kept.values().filter(move |it| it.new.destination == *to)
    }

    /// Whether it has no pending or failed callbacks and is not paused.
    pub(super) fn is_idle(&self, destination: &Destination) -> bool {
        !self.paused.contains_key(destination)
            && !self.to(destination).any(|it| it.is_pending() || it.is_failed())
    }

    /// Whether it has no pending callbacks: then the state of its breaker is discarded.
    pub(super) fn has_nothing_pending(&self, destination: &Destination) -> bool {
        !self.to(destination).any(Stored::is_pending)
    }

    fn note_idle(&mut self) {
        let idle: Vec<_> =
            self.open.keys().filter(|to| self.has_nothing_pending(to)).cloned().collect();
        self.idle.extend(idle);
    }
}
