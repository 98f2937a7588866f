//! Comparison of the outbox with its model.

use std::collections::BTreeMap;

use seal_dpf_urlcallback::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    outbox::{
        CallbackStatus, Criteria, DestinationQuery, DestinationSummary, OVERDUE, Outbox, Query,
        Readiness, Record, Stage, State, StateName, Summary,
    },
};

use super::{
    operation::{JOBS, Listing, UNIT, destinations},
    reference::{self, Model, Number, Stored},
    wakes::Wakes,
};

/// A limit that is greater than the number of callbacks of any case.
const ALL: usize = 10_000;

/// The ids of the callbacks.
#[derive(Debug, Default)]
pub(super) struct Ids(BTreeMap<Number, CallbackId>);

impl Ids {
    /// Records an id; ids sort by age and are unique.
    pub(super) fn note(&mut self, number: Number, id: CallbackId) {
        assert!(self.0.values().all(|known| *known < id), "{id} is not later than all before it");
        assert!(self.0.insert(number, id).is_none());
    }

    pub(super) fn of(&self, number: Number) -> CallbackId {
        self.0[&number]
    }

    pub(super) fn number(&self, id: CallbackId) -> Number {
        let found = self.0.iter().find(|(_, known)| **known == id);
        *found.unwrap_or_else(|| panic!("{id} was never given")).0
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = Number> {
        self.0.keys().copied()
    }

    /// Asserts that `record` agrees with the model.
    pub(super) fn agree(&self, stored: &Stored, record: &Record) {
        assert_eq!(record.id, self.of(stored.number));
        let new = &stored.new;
        assert_eq!(
            (&record.event_id, &record.body, &record.url, &record.destination),
            (&new.event_id, &new.body, &new.url, &new.destination)
        );
        assert_eq!(record.created_at, stored.created_at);
        assert_eq!(shown(record), meant(stored), "{stored:#?}");
        assert_eq!(record.state_name(), stored.state_name());
        assert_eq!(record.ended_at(), stored.finished().map(|(_, at)| at));
        assert_eq!(record.attempt_count as usize, stored.attempts.len());
        assert_eq!(record.last_attempt.as_ref(), stored.attempts.last());
        assert_eq!(
            (record.budget_attempts, record.budget_since, record.replays, &record.last_error),
            (stored.budget_attempts, stored.budget_since, stored.replays, &stored.last_error)
        );
    }
}

/// Whether a pending callback is active, and when it is due.
fn shown(record: &Record) -> Option<(bool, Timestamp)> {
    match record.state {
        State::Pending(Readiness::Fresh) => Some((true, record.created_at)),
        State::Pending(Readiness::Scheduled(at)) => Some((true, at)),
        State::Pending(Readiness::Blocked(at)) => Some((false, at)),
        State::Delivered(_) | State::Failed(_) => None,
    }
}

fn meant(stored: &Stored) -> Option<(bool, Timestamp)> {
    match stored.state {
        reference::State::Pending { at, turn, .. } => Some((turn, at)),
        _ => None,
    }
}

/// Compares everything that an outbox returns with the model.
pub(super) struct Check<'a> {
    pub(super) outbox: &'a dyn Outbox,
    pub(super) model: &'a Model,
    pub(super) ids: &'a Ids,
}

impl Check<'_> {
    /// The checks after each operation.
    pub(super) async fn step(&self, wakes: &Wakes) {
        let query = Query { limit: ALL, oldest_first: true, ..Query::default() };
        self.list(query, |_| true).await;
        self.summary().await;
        for to in destinations() {
            if let Some(due) = self.model.next_due(&to) {
                let told = wakes.at(&to);
                assert!(
                    told.is_some_and(|told| told <= due.max(self.model.now)),
                    "`{to}` has something due at {due} and would be checked at {told:?}"
                );
            }
        }
    }

    /// Every callback with its attempts, including removed callbacks.
    pub(super) async fn all(&self) {
        for number in self.ids.numbers() {
            let found = self.outbox.get(self.ids.of(number)).await.unwrap();
            let Some(stored) = self.model.kept.get(&number) else {
                assert!(found.is_none(), "{number} was purged");
                continue;
            };
            let detail = found.unwrap_or_else(|| panic!("{number} is lost"));
            self.status(stored, &detail.status);
            assert_eq!(detail.attempts, stored.attempts);
            let numbers = detail.attempts.iter().map(|attempt| attempt.number as usize);
            assert!(numbers.eq(1..=stored.attempts.len()));
        }
    }

    fn stage(&self, stored: &Stored) -> Option<Stage> {
        let is_due = stored.free_from().is_some_and(|at| at <= self.model.now);
        stored.is_pending().then_some(match () {
            () if stored.is_claimed() => Stage::InFlight,
            () if is_due => Stage::Due,
            () => Stage::Waiting,
        })
    }

    fn status(&self, stored: &Stored, status: &CallbackStatus) {
        assert_eq!(status.stage, self.stage(stored), "{stored:#?}");
        self.ids.agree(stored, &status.record);
        assert_eq!(status.in_flight, stored.is_claimed());
        let pending = stored.is_pending();
        let to = &stored.new.destination;
        assert_eq!(status.paused, pending && self.model.paused.contains_key(to));
        assert_eq!(status.open, self.model.open.get(to).copied().filter(|_| pending));
        assert_eq!(status.hold_until, self.hold(to).filter(|_| pending));
        let waits_for = self.model.waits_for(stored).map(|number| self.ids.of(number));
        assert_eq!(status.waiting_for, waits_for, "{stored:#?}");
    }

    /// A listing with these filters.
    pub(super) async fn listing(&self, asked: Listing, behind: Option<Number>) {
        let states = [StateName::Pending, StateName::Delivered, StateName::Failed];
        let state = asked.state.and_then(|at| states.get(at).copied());
        let parts = [Stage::Due, Stage::Waiting, Stage::InFlight];
        let part = asked.state.and_then(|at| parts.get(at.checked_sub(states.len())?).copied());
        let destination = asked.to.map(|to| destinations()[to].clone());
        let job_id = asked.job.map(|job| JOBS[job].to_owned());
        let ago = |units| self.model.now.before(UNIT * units);
        let (since, until) = (asked.since.map(ago), asked.until.map(ago));
        let (ended_since, ended_until) = (asked.ended_since.map(ago), asked.ended_until.map(ago));
        let all: Vec<_> = self.model.kept.values().collect();
        let directory = asked.directory.and_then(|at| all.get(at.checked_rem(all.len())?));
        let job_id_fs = directory.map(|it| it.new.body.job_id_fs.clone());
        let query = Query {
            state,
            criteria: Criteria {
                stage: part,
                destination: destination.clone(),
                job_id: job_id.clone(),
                job_id_fs: job_id_fs.clone(),
                error_kind: asked.kind,
                since,
                until,
                ended_since,
                ended_until,
            },
            cursor: behind.map(|number| self.ids.of(number)),
            limit: asked.limit,
            oldest_first: asked.oldest_first,
        };
        let ended_at = |it: &Stored| it.finished().map(|(_, at)| at);
        let wanted = |it: &Stored| {
            state.is_none_or(|state| it.state_name() == state)
                && (part.is_none() || self.stage(it) == part)
                && destination.as_ref().is_none_or(|to| it.new.destination == *to)
                && job_id.as_ref().is_none_or(|job| it.job() == job)
                && job_id_fs.as_ref().is_none_or(|fs| it.new.body.job_id_fs == *fs)
                && asked.kind.is_none_or(|kind| {
                    it.last_error.as_ref().is_some_and(|error| error.kind == kind)
                })
                && since.is_none_or(|since| it.created_at >= since)
                && until.is_none_or(|until| it.created_at < until)
                && ended_since.is_none_or(|since| ended_at(it).is_some_and(|at| at >= since))
                && ended_until.is_none_or(|until| ended_at(it).is_some_and(|at| at < until))
                && behind.is_none_or(|behind| {
                    if asked.oldest_first { it.number > behind } else { it.number < behind }
                })
        };
        self.list(query, wanted).await;
    }

    async fn list(&self, mut query: Query, wanted: impl Fn(&Stored) -> bool) {
        let mut expected: Vec<_> = self.model.kept.values().filter(|it| wanted(it)).collect();
        if !query.oldest_first {
            expected.reverse();
        }
        let mut found = Vec::new();
        for pages in 0.. {
            assert!(pages < ALL, "the listing has no end");
            let page = self.outbox.list(query.clone()).await.unwrap();
            assert!(page.callbacks.len() <= query.limit);
            found.extend(page.callbacks);
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        let numbers: Vec<_> = found.iter().map(|it| self.ids.number(it.record.id)).collect();
        assert_eq!(numbers, expected.iter().map(|it| it.number).collect::<Vec<_>>());
        for (stored, status) in expected.into_iter().zip(&found) {
            self.status(stored, status);
        }
    }

    async fn summary(&self) {
        let model = self.model;
        let summary = self.outbox.summary(model.now).await.unwrap();
        let kept = || model.kept.values();
        let oldest = |state| {
            kept().filter_map(|it| it.finished()).filter(|it| it.0 == state).map(|it| it.1).min()
        };
        let count = |wanted: &dyn Fn(&Stored) -> bool| kept().filter(|it| wanted(it)).count();
        let is_due = |it: &Stored| it.free_from().is_some_and(|at| at <= model.now);
        let is_paused = |it: &Stored| model.paused.contains_key(&it.new.destination);
        let mut busy: Vec<_> =
            destinations().into_iter().filter(|to| !to.is_none() && !model.is_idle(to)).collect();
        let of = |to: &Destination| self.of(to);
        let still = |it: &DestinationSummary| match it {
            it if it.paused_at.is_some() => 0,
            it if it.open.is_some() => 1,
            it if it.hold_until.is_some() => 2,
            it if it.pending > 0 && it.failed > 0 => 3,
            _ => 4,
        };
        busy.sort_by_key(|to| {
            let it = of(to);
            (still(&it), std::cmp::Reverse((it.pending, it.failed)), to.clone())
        });
        let shown: Vec<_> = busy.iter().map(of).collect();
        let (pending, due) = (model.pending() as u64, count(&is_due) as u64);
        let in_flight = count(&Stored::is_claimed) as u64;
        let expected = Summary {
            pending,
            due,
            waiting: pending - due - in_flight,
            in_flight,
            delivered: count(&|it| it.state_name() == StateName::Delivered) as u64,
            failed: count(&Stored::is_failed) as u64,
            oldest_delivered: oldest(StateName::Delivered),
            oldest_failed: oldest(StateName::Failed),
            due_paused: count(&|it| is_due(it) && is_paused(it)) as u64,
            oldest_due: kept().filter(|it| is_due(it)).filter_map(Stored::free_from).min(),
            oldest_due_unpaused: kept()
                .filter(|it| is_due(it) && !is_paused(it))
                .filter_map(Stored::free_from)
                .min(),
            overdue: destinations().iter().map(|to| self.overdue(to)).sum(),
            destination_count: shown.len() as u64,
            open_count: shown.iter().filter(|it| it.open.is_some()).count() as u64,
            paused_count: shown.iter().filter(|it| it.paused_at.is_some()).count() as u64,
            store_bytes: summary.store_bytes,
            destinations: shown,
            // This instance alone, or none.
            instances: summary.instances.clone(),
        };
        assert_eq!(summary, expected);
        assert!(summary.instances.len() < 2);
        // The pages of destinations form the same list.
        let (mut listed, mut query) =
            (Vec::new(), DestinationQuery { limit: 1, ..Default::default() });
        loop {
            let page = self.outbox.destinations(query.clone(), model.now).await.unwrap();
            listed.extend(page.destinations);
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(listed, expected.destinations);
        // Destinations without callbacks come last, if requested.
        let idle = destinations().into_iter().filter(|to| !to.is_none()).collect();
        let query = DestinationQuery { limit: ALL, idle, ..Default::default() };
        let listed = self.outbox.destinations(query, model.now).await.unwrap().destinations;
        let (with, without) = listed.split_at(expected.destinations.len());
        assert_eq!(with, expected.destinations);
        let mut others: Vec<_> = destinations().into_iter().collect();
        others.retain(|to| !to.is_none() && model.is_idle(to));
        others.sort();
        let others: Vec<_> = others.into_iter().map(DestinationSummary::idle).collect();
        assert_eq!(without, others);
    }

    fn hold(&self, to: &Destination) -> Option<Timestamp> {
        self.model.holds.get(to).copied().filter(|until| *until > self.model.now)
    }

    fn overdue(&self, to: &Destination) -> u64 {
        let now = self.model.now;
        let due = || self.model.to(to).filter_map(Stored::free_from).filter(|at| *at <= now);
        let late = due().min().is_some_and(|at| now.since(at) > OVERDUE);
        let kept_back = self.hold(to).is_some()
            || self.model.open.contains_key(to)
            || self.model.paused.contains_key(to);
        if late && !kept_back { due().count() as u64 } else { 0 }
    }

    fn of(&self, to: &Destination) -> DestinationSummary {
        let count =
            |wanted: fn(&Stored) -> bool| self.model.to(to).filter(|it| wanted(it)).count() as u64;
        DestinationSummary {
            destination: to.clone(),
            pending: count(Stored::is_pending),
            due: self
                .model
                .to(to)
                .filter_map(Stored::free_from)
                .filter(|at| *at <= self.model.now)
                .count() as u64,
            in_flight: count(Stored::is_claimed),
            failed: count(Stored::is_failed),
            paused_at: self.model.paused.get(to).copied(),
            open: self.model.open.get(to).copied(),
            hold_until: self.hold(to),
        }
    }
}
