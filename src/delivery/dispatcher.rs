//! The delivery loop. One task owns all lanes. It sleeps until a callback is due, a slot is free, or a
//! request (news, shutdown, health check) arrives; then it claims, and spawns one task for each attempt.
//!
//! ```text
//!  news (outbox) ────┐                              ┌─► attempt task: PUT ─► Ended
//!  timers ───────────┼─► ready lanes ─► claim ──────┤        └► settle ─► [disk] ─► log, Settled
//!  Ended, Settled ───┘   in turn, a few each        └─► …
//! ```
//!
//! A slot is free when its PUT has ended ([`Event::Ended`]). The job's next callback is due when the outcome
//! is durable, which the outbox signals. Lanes have turns of at most [`CLAIMS_PER_TURN`] claims, so a long
//! queue delays the others by one turn at most; the order is in
//! [`shares`](crate::delivery::schedule::shares). Nothing is claimed while too many outcomes wait for the
//! disk, because everything sent until then would be repeated if the process were killed.

mod news;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    jumps::Jumps,
    outcome::DestinationHealth,
    recent_map::RecentMap,
    schedule::{
        breaker::Change,
        lane::{Lane, Remembered},
        shares::{Shares, Turn},
        timers::Timers,
    },
    send::{attempt::Sender, connections::Connections},
    settings::Settings,
    task::{self, AWAY_PAUSE, AttemptTask, Ended, Event, Settling, SlotGuard, Unsettled},
};
use crate::{
    callback::{Destination, DestinationMap},
    clock::{SharedClock, Timestamp},
    health::LoopCheck,
    outbox::{Claim, Outbox, OutboxError},
    report,
};

/// Maximum number of callbacks of one destination that are claimed in one turn.
const CLAIMS_PER_TURN: usize = 16;

/// The longest sleep until a timer: timers use the monotonic clock, and the system clock may jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// Pause of a destination whose rows cannot be read.
const UNREADABLE_PAUSE: Duration = Duration::from_mins(1);

/// The delivery loop.
pub struct Dispatcher {
    outbox: Arc<dyn Outbox>,
    sender: Arc<Sender>,
    settings: Arc<Settings>,
    /// The settings after a reload.
    reloaded: watch::Receiver<Arc<Settings>>,
    clock: SharedClock,
    jumps: Arc<Jumps>,
    /// Backward jumps of the clock that the lanes have been adjusted for.
    back: u64,
    lanes: DestinationMap<Lane>,
    /// Breaker and pace of destinations without a lane.
    remembered: RecentMap<Destination, Remembered>,
    shares: Shares,
    timers: Timers,
    connections: Connections,
    /// Lanes that may have become idle.
    maybe_idle: Vec<Destination>,
    unsettled: usize,
    events: mpsc::UnboundedSender<Event>,
    received: mpsc::UnboundedReceiver<Event>,
    settling: mpsc::UnboundedSender<Settling>,
    /// Dropped to abort the attempts in progress.
    abort: watch::Sender<()>,
}

impl Dispatcher {
    /// Creates a loop; [`Dispatcher::run`] starts it. Outcomes are received and logged by a task of the
    /// runtime in which this is called, to keep that work off the delivery threads. The settings may
    /// change at any time.
    pub fn new(
        outbox: Arc<dyn Outbox>,
        sender: Sender,
        mut reloaded: watch::Receiver<Arc<Settings>>,
        jumps: Arc<Jumps>,
    ) -> Self {
        let settings = Arc::clone(&reloaded.borrow_and_update());
        let (events, received) = mpsc::unbounded_channel();
        let (settling, to_settle) = mpsc::unbounded_channel();
        tokio::spawn(task::settle(to_settle));
        Self {
            sender: Arc::new(sender),
            shares: Shares::new(settings.concurrency, Instant::now()),
            settings,
            reloaded,
            clock: outbox.clock(),
            outbox,
            jumps,
            back: 0,
            lanes: DestinationMap::default(),
            remembered: RecentMap::default(),
            timers: Timers::default(),
            connections: Connections::default(),
            maybe_idle: Vec::new(),
            unsettled: 0,
            events,
            received,
            settling,
            abort: watch::channel(()).0,
        }
    }

    /// Delivers until `shutdown` becomes `true`. Then it starts no more attempts, waits up to
    /// `shutdown_grace` for those in progress, aborts the others, and returns.
    pub async fn run(
        mut self,
        mut shutdown: watch::Receiver<bool>,
        mut checks: mpsc::Receiver<LoopCheck>,
    ) {
        let outbox = Arc::clone(&self.outbox);
        let mut batch = Vec::new();
        loop {
            // Process ended attempts first, because they free slots, however many other events arrive.
            while let Ok(event) = self.received.try_recv() {
                self.handle(event);
            }
            self.recheck_after_clock_jump();
            self.raise_slow_lanes();
            self.resume_waiting_lanes();
            self.fire_timers();
            // This must come before `start_attempts`: it also receives news, and a lane that is given a
            // turn must be served before the loop sleeps.
            self.forget_idle_lanes();
            self.start_attempts();
            let sleep = self.sleep();
            // A resumed lane may not have used its slot; another lane can take it.
            let again = !self.maybe_idle.is_empty() || self.shares.has_resumable();
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => break,
                Some(check) = checks.recv() => drop(check.send(())),
                news = outbox.news() => self.receive(news),
                n = self.received.recv_many(&mut batch, 1024) => {
                    debug_assert!(n > 0, "the loop holds a sender itself");
                    batch.drain(..).for_each(|event| self.handle(event));
                }
                Ok(()) = self.reloaded.changed() => self.reload(),
                () = tokio::task::yield_now(), if again => {}
                () = sleep => {}
            }
        }
        self.drain().await;
    }

    async fn drain(mut self) {
        tracing::info!(
            event.action = "delivery-draining",
            callback.in_flight = self.shares.in_flight(),
            "no new attempts; waiting for those in progress"
        );
        // The latest, even if the stop was received first.
        let grace = self.reloaded.borrow().shutdown_grace;
        let end = Instant::now() + grace;
        while self.unsettled > 0 {
            match tokio::time::timeout_at(end, self.received.recv()).await {
                Ok(Some(event)) => self.handle(event),
                Ok(None) => return,
                Err(_) => break,
            }
        }
        // The tasks release their claims and report that they have ended.
        drop(std::mem::replace(&mut self.abort, watch::channel(()).0));
        while self.unsettled > 0
            && let Some(event) = self.received.recv().await
        {
            self.handle(event);
        }
    }

    fn sleep(&mut self) -> impl Future<Output = ()> + use<> {
        let timer = self.timers.first().map(|at| {
            // tokio's timers round down to the millisecond; one more is never early.
            let pause = at.since(self.clock.now()) + Duration::from_millis(1);
            Instant::now() + pause.min(LONGEST_SLEEP)
        });
        let wake_at = timer.into_iter().chain(self.shares.wake_at()).min();
        async move {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ended(Ended { destination, health, slot, pause }) => {
                let took = self.shares.end(slot, health, Instant::now());
                if health == DestinationHealth::Failing {
                    self.connections.lost(&destination);
                }
                let now = self.clock.now();
                let Some(lane) = self.lanes.get_mut(&destination) else { return };
                lane.pace.ended(took, health);
                let change = lane.end(health, &self.settings.breaker, now);
                if lane.lost {
                    return;
                }
                if let Some(pause) = pause {
                    lane.claim_again(now.after(pause));
                }
                if let Some(change) = change {
                    self.outbox.set_open(&destination, lane.open());
                    match change {
                        Change::Opened(open) => report::opened(&destination, open.next_probe_at),
                        Change::Extended(open) => {
                            report::probe_failed(&destination, open.next_probe_at);
                        }
                        Change::Closed => report::works_again(&destination),
                    }
                }
                self.schedule(&destination);
            }
            Event::Settled(destination) => {
                self.unsettled -= 1;
                if let Some(lane) = self.lanes.get_mut(&destination) {
                    lane.unsettled -= 1;
                    if lane.is_idle() {
                        self.maybe_idle.push(destination);
                    }
                }
            }
        }
    }

    /// Gives the lane a turn, or sets its timer.
    fn schedule(&mut self, destination: &Destination) {
        let Some(lane) = self.lanes.get_mut(destination) else { return };
        self.timers.clear(destination);
        let (now, level) = (self.clock.now(), lane.pace.level());
        let spare = self.shares.spare(level);
        if lane.waits_at != Some(level) && lane.lacks_slots(spare, now) {
            lane.waits_at = Some(level);
            self.shares.wait_for_slots(destination.clone(), level);
        }
        match lane.wake_at(spare) {
            Some(at) if at > now => {
                self.timers.set(destination, at);
            }
            // If its level has changed, the old ticket is skipped.
            Some(_) if lane.ticket.is_none_or(|ticket| !ticket.is_at(level)) => {
                lane.ticket = Some(self.shares.push(destination.clone(), level));
            }
            _ => {}
        }
    }

    /// The settings have changed. Attempts in progress end with those that they began with.
    fn reload(&mut self) {
        self.settings = Arc::clone(&self.reloaded.borrow_and_update());
        self.shares.resize(self.settings.concurrency);
        let all: Vec<_> = self.lanes.keys().cloned().collect();
        for destination in all {
            if let Some(lane) = self.lanes.get_mut(&destination) {
                lane.limits = self.settings.limits(&destination);
            }
            self.schedule(&destination);
        }
    }

    /// After the clock has gone back, times that lanes wait for may be far in the future.
    fn recheck_after_clock_jump(&mut self) {
        let back = self.jumps.back();
        if std::mem::replace(&mut self.back, back) == back {
            return;
        }
        let now = self.clock.now();
        self.remembered.clear();
        let all: Vec<_> = self.lanes.keys().cloned().collect();
        for destination in all {
            if let Some(lane) = self.lanes.get_mut(&destination) {
                lane.clock_went_back(now);
            }
            self.schedule(&destination);
        }
    }

    /// Raises the level of lanes whose attempts take long, before these attempts end.
    fn raise_slow_lanes(&mut self) {
        for (destination, so_far) in self.shares.risen(Instant::now()) {
            if let Some(lane) = self.lanes.get_mut(&destination) {
                lane.pace.at_least(so_far);
            }
            self.schedule(&destination);
        }
    }

    /// Resumes lanes that waited for slots when half of all slots are free again: only as many as there are
    /// slots for, because each freed slot would otherwise wake all of them.
    fn resume_waiting_lanes(&mut self) {
        for (destination, level) in self.shares.take_resumable() {
            let Some(lane) = self.lanes.get_mut(&destination) else { continue };
            if lane.waits_at == Some(level) {
                lane.waits_at = None;
                self.schedule(&destination);
            }
        }
    }

    fn fire_timers(&mut self) {
        // Take all timers first: if the clock goes back now, `schedule` sets some of them again.
        for destination in self.timers.take_due(self.clock.now()) {
            self.schedule(&destination);
        }
    }

    /// Starts attempts, lane by lane, while there are slots.
    fn start_attempts(&mut self) {
        let most = self.settings.max_unsettled;
        while let Some(turn) = self.shares.next(most.saturating_sub(self.unsettled), Instant::now())
        {
            let now = self.clock.now();
            let destination = &turn.destination;
            let Some(lane) = self.lanes.get_mut(destination) else { continue };
            if lane.ticket != Some(turn.ticket) {
                continue;
            }
            lane.ticket = None;
            let spare = self.shares.spare(lane.pace.level());
            let room = lane.room(spare, now);
            let room = room.min(CLAIMS_PER_TURN).min(turn.share);
            if room > 0 {
                match self.outbox.claim(destination, room, now) {
                    Ok(claims) => {
                        lane.next_due = claims.next_due;
                        for claim in claims.claimed {
                            self.start(claim, &turn);
                        }
                    }
                    Err(OutboxError::Lost) => self.lose(turn.destination.clone()),
                    Err(error) => claim_failed(lane, destination, &error, now),
                }
            }
            self.schedule(destination);
            if self.lanes.get(destination).is_some_and(Lane::is_idle) {
                self.maybe_idle.push(turn.destination);
            }
        }
    }

    fn start(&mut self, claim: Claim, turn: &Turn) {
        let destination = &turn.destination;
        let keep_connection = self.connections.keep(destination, Instant::now());
        let Some(lane) = self.lanes.get_mut(destination) else { return };
        lane.start(self.clock.now());
        self.unsettled += 1;
        let slot = self.shares.start(turn, Instant::now());
        let attempt = AttemptTask {
            outbox: Arc::clone(&self.outbox),
            sender: Arc::clone(&self.sender),
            settings: Arc::clone(&self.settings),
            jumps: Arc::clone(&self.jumps),
            settling: self.settling.clone(),
            slot: SlotGuard::new(destination.clone(), slot, self.events.clone()),
            unsettled: Unsettled::new(destination.clone(), self.events.clone()),
            close_after: !keep_connection,
        };
        let abort = self.abort.subscribe();
        // Boxed, because the runtime moves a task's future several times.
        tokio::spawn(Box::pin(attempt.run(claim, abort)));
    }
}

/// Nothing could be claimed for a lane: it tries again after a pause.
fn claim_failed(lane: &mut Lane, destination: &Destination, error: &OutboxError, now: Timestamp) {
    if error.is_transient() {
        lane.claim_again(now.after(AWAY_PAUSE));
        report::store_away("nothing can be claimed", error);
        return;
    }
    lane.next_due = Some(now.after(UNREADABLE_PAUSE));
    report::claim_failed(destination, error);
}
