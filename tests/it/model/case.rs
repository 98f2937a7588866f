//! One case: the same operations on an outbox and its model.

use std::{collections::VecDeque, sync::Arc};

use futures_util::future::BoxFuture;
use seal_dpf_urlcallback::{
    clock::{Clock as _, ManualClock, Timestamp},
    outbox::{Claim, Open, Outbox, OutboxError},
};

use super::{
    Factory, MAX_PENDING,
    check::{Check, Ids},
    operation::{Asked, Ending, HOSTS, Kept, Operation, UNIT, Write, destinations},
    reference::{Model, Number, Stored},
    wakes::Wakes,
    writes::Verdict,
};

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// An outbox and its model.
pub(super) struct Case {
    factory: Factory,
    folder: crate::support::StoreFolder,
    clock: Arc<ManualClock>,
    /// `None` while it is closed.
    outbox: Option<Arc<dyn Outbox>>,
    pub(super) model: Model,
    pub(super) ids: Ids,
    wakes: Wakes,
    /// Claimed and neither settled nor released.
    hand: VecDeque<Claim>,
    /// The number of submitted events; each body is unique.
    pub(super) events: usize,
}

impl Case {
    /// Executes all steps, and then empties the outbox.
    pub(super) async fn run(factory: Factory, operations: Vec<Operation>) {
        let folder = crate::support::StoreFolder::new();
        let clock = ManualClock::at(START);
        let mut case = Self {
            factory,
            folder,
            clock,
            outbox: None,
            model: Model::new(START, MAX_PENDING),
            ids: Ids::default(),
            wakes: Wakes::default(),
            hand: VecDeque::new(),
            events: 0,
        };
        case.open();
        for operation in operations {
            case.step(operation).await;
            case.listen();
            case.check().step(&case.wakes).await;
        }
        case.check().all().await;
        case.empty().await;
    }

    fn open(&mut self) {
        let outbox = (self.factory.open)(self.folder.path(), Arc::clone(&self.clock) as _);
        self.wakes.wait(&outbox);
        self.outbox = Some(outbox);
    }

    fn close(&mut self) {
        // The task that waits for news also holds a reference.
        self.wakes = Wakes::default();
        let outbox = self.outbox.take().unwrap();
        assert_eq!(Arc::strong_count(&outbox), 1, "it is open elsewhere");
    }

    pub(super) fn outbox(&self) -> &dyn Outbox {
        self.outbox.as_deref().unwrap()
    }

    fn listen(&mut self) {
        self.wakes.listen(self.outbox.as_ref().unwrap());
    }

    fn check(&self) -> Check<'_> {
        Check { outbox: self.outbox(), model: &self.model, ids: &self.ids }
    }

    async fn step(&mut self, operation: Operation) {
        self.model.idle.clear();
        match operation {
            Operation::Write(write) => self.write(vec![write]).await,
            Operation::Burst(writes) => {
                self.write(writes).await;
                self.close_idle();
            }
            Operation::Claim(asked) => self.claim(asked),
            Operation::ClaimDuring(writes, asked) => {
                self.claim_during(writes, asked).await;
                self.close_idle();
            }
            Operation::Release(place) => {
                if let Some(claim) = self.take(place) {
                    self.release(claim);
                }
            }
            Operation::Pass(units) => {
                self.clock.advance(UNIT * units);
                self.model.now = self.clock.now();
            }
            Operation::Report { to, open } => self.report(to, open),
            Operation::Ready => self.ready().await,
            Operation::Reopen => self.reopen().await,
            Operation::List(listing) => {
                let behind = listing.behind.and_then(|place| self.number(place, |_| true));
                self.check().listing(listing, behind).await;
            }
        }
    }

    /// Makes all calls before waiting for any, and then waits for the last one first.
    async fn write(&mut self, writes: Vec<Write>) {
        let answers: Vec<_> = writes.into_iter().filter_map(|write| self.ask(write)).collect();
        self.judge(answers).await;
    }

    async fn judge(&mut self, answers: Vec<BoxFuture<'static, Verdict>>) {
        let mut verdicts = VecDeque::new();
        for answer in answers.into_iter().rev() {
            verdicts.push_front(answer.await);
        }
        verdicts.into_iter().for_each(|verdict| verdict(&mut self.ids));
        let idle: Vec<_> =
            self.model.open.keys().filter(|to| self.model.has_nothing_pending(to)).collect();
        let idle: Vec<_> = idle.into_iter().cloned().collect();
        self.model.open.retain(|to, _| !idle.contains(to));
    }

    fn claim(&mut self, asked: Asked) {
        let to = &destinations()[asked.to];
        let claims = self.outbox().claim(to, asked.limit, self.model.now).unwrap();
        self.wakes.come_again(to.clone(), claims.next_due);
        let due = |at: &Timestamp| *at <= self.model.now;
        let held = self.model.holds.get(to).is_some_and(|until| *until > self.model.now);
        let mut free: Vec<_> =
            self.model.to(to).filter_map(Stored::free_from).filter(due).collect();
        if held || self.model.paused.contains_key(to) {
            free.clear();
        }
        free.sort_unstable();
        free.truncate(asked.limit);
        if free.is_empty() {
            assert!(claims.next_due.is_none_or(|at| at > self.model.now), "it looks in vain");
        }
        let mut since = Vec::new();
        for claim in claims.claimed {
            since.push(self.claimed(claim));
        }
        assert_eq!(since, free, "what is due, the longest first");
    }

    /// Keeps a claim; returns when it was due.
    fn claimed(&mut self, claim: Claim) -> Timestamp {
        let number = self.ids.number(claim.record.id);
        let stored = &self.model.kept[&number];
        assert!(!self.model.paused.contains_key(&stored.new.destination), "it is paused");
        let since = stored.free_from();
        let since =
            since.unwrap_or_else(|| panic!("no callback is active, but claimed: {stored:#?}"));
        assert!(since <= self.model.now, "not before {since}: {stored:#?}");
        self.ids.agree(stored, &claim.record);
        let earliest = &self.model.kept[&self.model.earliest(stored.job()).unwrap()];
        assert!(
            earliest.number == number || earliest.overtaken_by == Some(number),
            "{number} goes before {earliest:#?}"
        );
        self.model.claim(number);
        self.hand.push_back(claim);
        since
    }

    /// Such writes can only free more callbacks, so a callback that is claimed during them would also be free
    /// afterwards.
    async fn claim_during(&mut self, writes: Vec<Write>, asked: Asked) {
        let to = &destinations()[asked.to];
        let answers: Vec<_> = writes.into_iter().filter_map(|write| self.ask(write)).collect();
        let claims = self.outbox().claim(to, asked.limit, self.model.now).unwrap();
        self.wakes.come_again(to.clone(), claims.next_due);
        self.judge(answers).await;
        assert!(claims.claimed.len() <= asked.limit);
        for claim in claims.claimed {
            self.claimed(claim);
        }
    }

    pub(super) fn take(&mut self, place: usize) -> Option<Claim> {
        let place = place.checked_rem(self.hand.len())?;
        self.hand.remove(place)
    }

    fn release(&mut self, claim: Claim) {
        self.model.release(self.ids.number(claim.record.id));
        claim.release();
    }

    /// The breaker's state is forgotten with the last pending callback to its destination. It cannot be
    /// determined whether that happened between the writes of a burst, or whether they were one batch.
    fn close_idle(&mut self) {
        for to in std::mem::take(&mut self.model.idle) {
            self.outbox().set_open(&to, None);
            self.model.open.remove(&to);
        }
    }

    fn report(&mut self, to: usize, open: bool) {
        let to = &destinations()[to];
        let now = self.model.now;
        let state = open.then(|| Open { since: now, next_probe_at: now.after(UNIT) });
        self.outbox().set_open(to, state);
        self.model.open.remove(to);
        if let Some(state) = state.filter(|_| !self.model.has_nothing_pending(to)) {
            self.model.open.insert(to.clone(), state);
        }
    }

    async fn ready(&self) {
        match self.outbox().ready().await {
            Ok(()) => assert!(self.model.has_room_for(1)),
            Err(OutboxError::Full { .. }) => assert!(!self.model.has_room_for(1)),
            Err(error) => panic!("{error}"),
        }
    }

    async fn reopen(&mut self) {
        self.hand.clear();
        let open = self.model.open.clone();
        self.model.reopen();
        if self.factory.keeps_breakers {
            self.model.open = open;
        }
        self.close();
        self.open();
        self.check().all().await;
    }

    /// The callback that a number in a step selects: usually a suitable one, sometimes any, including purged
    /// ones.
    pub(super) fn number(&self, place: usize, fits: impl Fn(&Stored) -> bool) -> Option<Number> {
        let all: Vec<_> = self.ids.numbers().collect();
        let is_fit = |number: &Number| self.model.kept.get(number).is_some_and(&fits);
        let fit: Vec<_> = all.iter().copied().filter(is_fit).collect();
        let choice = if place % 6 == 5 || fit.is_empty() { all } else { fit };
        choice.get(place.checked_rem(choice.len())?).copied()
    }

    /// Delivers and purges everything, following only the signals and the results of claims: nothing is
    /// stuck, and nothing is left.
    async fn empty(&mut self) {
        while let Some(claim) = self.hand.pop_front() {
            self.release(claim);
        }
        for to in 0..HOSTS {
            self.write(vec![Write::Pause(to, false)]).await;
        }
        self.listen();
        while self.model.pending() > 0 {
            let (to, at) = self.wakes.next().expect("no check is planned");
            self.clock.set(at.max(self.model.now));
            self.model.now = self.clock.now();
            let to = destinations().iter().position(|it| *it == to).unwrap();
            self.claim(Asked { to, limit: MAX_PENDING });
            let settled: Vec<_> = std::iter::from_fn(|| self.hand.pop_front()).collect();
            let ending = |claim| self.settle(claim, Ending::Delivered);
            let answers = settled.into_iter().map(ending).collect();
            self.judge(answers).await;
            self.listen();
        }
        self.clock.advance(UNIT);
        self.model.now = self.clock.now();
        self.write(vec![Write::Purge(Kept { delivered: 0, failed: 0 })]).await;
        self.check().step(&self.wakes).await;
        assert!(self.model.kept.is_empty());
        self.close();
        let left = (self.factory.leftovers)(self.folder.path());
        assert!(left.is_empty(), "{left:?} are left of nothing");
    }
}
