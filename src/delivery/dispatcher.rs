//! The delivery loop. One task owns all lanes; it sleeps until something is due, a slot is
//! free or somebody calls, claims, and spawns one task for each attempt.
//!
//! ```text
//!  signals (outbox) ─┐                              ┌─► attempt task: PUT ─► Ended
//!  timers ───────────┼─► ready lanes ─► claim ──────┤        └► settle ─► [disk] ─► log, Settled
//!  Ended, Settled ───┘   in turn, a few each        └─► …
//! ```
//!
//! A destination's slot is free when its PUT has ended ([`Event::Ended`]); the job's next
//! callback is due when the disk has the outcome, which the outbox signals. Lanes are served
//! in turn, at most [`CLAIMS_PER_TURN`] claims each, so a long queue costs the others one turn; see
//! [`shares`](crate::delivery::schedule::shares) for whose turn it is. Nothing is claimed while too many outcomes wait for
//! the disk: what is sent meanwhile would be sent again after a kill.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    jumps::Jumps,
    outcome::DestinationHealth,
    recent::Recent,
    schedule::{
        lane::{Lane, Remembered},
        shares::{Shares, Turn},
        timers::Timers,
    },
    send::{attempt::Sender, connections::Connections},
    settings::Settings,
    task::{self, AttemptTask, Ended, Event, Settling, Taken, Unsettled},
};
use crate::{
    callback::Destination,
    clock::{SharedClock, Timestamp},
    health::LoopCheck,
    outbox::{Claim, Outbox},
    report,
};

/// How many callbacks of one destination are claimed before the next one has its turn.
const CLAIMS_PER_TURN: usize = 16;

/// The machine's clock may jump while the loop sleeps on another one; it looks again after
/// this time when it waits for something.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// How long a destination rests whose rows cannot be read.
const UNREADABLE_PAUSE: Duration = Duration::from_mins(1);

/// The delivery loop.
pub struct Dispatcher {
    outbox: Arc<dyn Outbox>,
    sender: Arc<Sender>,
    settings: Arc<Settings>,
    clock: SharedClock,
    jumps: Arc<Jumps>,
    /// How often the clock had gone back when the lanes were last looked at for that.
    back: u64,
    lanes: HashMap<Destination, Lane>,
    /// What is known of destinations for which there is nothing to do.
    remembered: Recent<Destination, Remembered>,
    shares: Shares,
    timers: Timers,
    connections: Connections,
    /// Lanes that may have become idle.
    maybe_idle: Vec<Destination>,
    unsettled: usize,
    events: mpsc::UnboundedSender<Event>,
    received: mpsc::UnboundedReceiver<Event>,
    settling: mpsc::UnboundedSender<Settling>,
    /// Dropped to make the attempts under way give up.
    abort: watch::Sender<()>,
}

impl Dispatcher {
    /// A loop that does nothing until it is run. Outcomes are heard and logged by a task of the
    /// runtime in which this is called, so that they cost the threads that make the attempts
    /// nothing.
    pub fn new(
        outbox: Arc<dyn Outbox>,
        sender: Sender,
        settings: Settings,
        clock: SharedClock,
        jumps: Arc<Jumps>,
    ) -> Self {
        let (events, received) = mpsc::unbounded_channel();
        let (settling, to_settle) = mpsc::unbounded_channel();
        tokio::spawn(task::settle(to_settle));
        Self {
            outbox,
            sender: Arc::new(sender),
            shares: Shares::new(settings.concurrency, Instant::now()),
            settings: Arc::new(settings),
            clock,
            jumps,
            back: 0,
            lanes: HashMap::new(),
            remembered: Recent::default(),
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

    /// Delivers until `shutdown` says `true`; then starts nothing more, gives what is under
    /// way its grace, puts the rest back, and returns.
    pub async fn run(
        mut self,
        mut shutdown: watch::Receiver<bool>,
        mut checks: mpsc::Receiver<LoopCheck>,
    ) {
        let outbox = Arc::clone(&self.outbox);
        let mut batch = Vec::new();
        loop {
            // Before anything else: however much comes in, what has ended makes room.
            while let Ok(event) = self.received.try_recv() {
                self.handle(event);
            }
            self.recheck_after_clock_jump();
            self.raise_slow_lanes();
            self.resume_limited_lanes();
            self.fire_timers();
            // It hears signals as well, so it comes before what they ask for is served: nothing
            // may be left in the line when the loop goes to sleep.
            self.forget_idle_lanes();
            self.start_attempts().await;
            let sleep = self.sleep();
            // One that was limited may have found nothing to do with the slot that it was given.
            let again = !self.maybe_idle.is_empty() || self.shares.has_unlimited();
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => break,
                Some(check) = checks.recv() => drop(check.send(())),
                signals = outbox.signalled() => self.signalled(signals),
                n = self.received.recv_many(&mut batch, 1024) => {
                    debug_assert!(n > 0, "the loop holds a sender itself");
                    batch.drain(..).for_each(|event| self.handle(event));
                }
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
            "no new attempts; attempts under way may end"
        );
        let end = Instant::now() + self.settings.shutdown_grace;
        while self.unsettled > 0 {
            match tokio::time::timeout_at(end, self.received.recv()).await {
                Ok(Some(event)) => self.handle(event),
                Ok(None) => return,
                Err(_) => break,
            }
        }
        // The tasks hear it, give their claims back, and say so.
        drop(std::mem::replace(&mut self.abort, watch::channel(()).0));
        while self.unsettled > 0 {
            match self.received.recv().await {
                Some(event) => self.handle(event),
                None => return,
            }
        }
    }

    fn sleep(&mut self) -> impl Future<Output = ()> + use<> {
        let timer = self.timers.first().map(|at| {
            // Timers of tokio round to the millisecond below; the next one is never early.
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

    fn signalled(&mut self, signals: Vec<(Destination, Timestamp)>) {
        let now = self.clock.now();
        for (destination, due) in signals {
            // What was put off by a clock that was ahead is due now.
            let latest = now.after(self.settings.retry.longest_pause());
            let due = if due > latest { now } else { due };
            let again =
                || self.remembered.take(&destination).map(Lane::restored).unwrap_or_default();
            self.lanes.entry(destination.clone()).or_insert_with(again).due(due);
            self.schedule(&destination);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ended(Ended { destination, health, slot }) => {
                let took = self.shares.end(slot, health, Instant::now());
                if health == DestinationHealth::Failing {
                    self.connections.lost(&destination);
                }
                let now = self.clock.now();
                let Some(lane) = self.lanes.get_mut(&destination) else { return };
                lane.pace.ended(took, health);
                if lane.end(health, &self.settings.breaker, now) {
                    let open = lane.open();
                    self.outbox.report(&destination, open);
                    report::breaker(&destination, open.map(|it| it.next_probe_at));
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

    /// Puts the lane into the line of those to be served, or sets its timer.
    fn schedule(&mut self, destination: &Destination) {
        let Some(lane) = self.lanes.get_mut(destination) else { return };
        self.timers.clear(destination);
        let (now, level) = (self.clock.now(), lane.pace.level());
        let (limit, spare) = (self.settings.per_destination, self.shares.spare(level));
        if lane.limited != Some(level) && lane.is_limited(limit, spare, now) {
            lane.limited = Some(level);
            self.shares.limit(destination.clone(), level);
        }
        match lane.wake_at(limit, spare) {
            Some(at) if at > now => {
                self.timers.set(destination, at);
            }
            // Where its level has changed, what stands at the old place is passed over.
            Some(_) if lane.ticket.is_none_or(|ticket| !ticket.is_at(level)) => {
                lane.ticket = Some(self.shares.push(destination.clone(), level));
            }
            _ => {}
        }
    }

    /// When the clock has gone back, what waits for a time may wait for one that is far away.
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

    /// A destination whose attempts take long is known to be slow before they end.
    fn raise_slow_lanes(&mut self) {
        for (destination, so_far) in self.shares.risen(Instant::now()) {
            if let Some(lane) = self.lanes.get_mut(&destination) {
                lane.pace.at_least(so_far);
            }
            self.schedule(&destination);
        }
    }

    /// Those that were limited may start more where half of all slots are free again: as many as
    /// there are slots for, or each slot that is freed would have all of them look.
    fn resume_limited_lanes(&mut self) {
        for (destination, level) in self.shares.unlimited() {
            let Some(lane) = self.lanes.get_mut(&destination) else { continue };
            if lane.limited == Some(level) {
                lane.limited = None;
                self.schedule(&destination);
            }
        }
    }

    fn fire_timers(&mut self) {
        // All are taken first: where the clock goes back just now, a lane sets its timer again.
        for destination in self.timers.take_due(self.clock.now()) {
            self.schedule(&destination);
        }
    }

    /// Starts what can start: lane after lane, as long as there are slots.
    async fn start_attempts(&mut self) {
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
            let room = lane.room(self.settings.per_destination, spare, now);
            let room = room.min(CLAIMS_PER_TURN).min(turn.share);
            if room > 0 {
                match self.outbox.claim(destination, room, now).await {
                    Ok(claims) => {
                        lane.next_due = claims.next_due;
                        for claim in claims.claimed {
                            self.start(claim, &turn);
                        }
                    }
                    Err(error) => {
                        lane.next_due = Some(now.after(UNREADABLE_PAUSE));
                        tracing::error!(
                            event.action = "claim-failed",
                            url.domain = destination.host(),
                            callback.destination = destination.as_str(),
                            error.message = %error,
                            "what is due for a destination cannot be read"
                        );
                    }
                }
            }
            self.schedule(destination);
            if self.lanes.get(destination).is_some_and(Lane::is_idle) {
                self.maybe_idle.push(turn.destination);
            }
        }
    }

    /// Lets go of lanes for which there is nothing to do, and remembers what is known of them: their
    /// next callback may only wait for another destination's. What the outbox has to say is heard
    /// first.
    fn forget_idle_lanes(&mut self) {
        if self.maybe_idle.is_empty() {
            return;
        }
        let outbox = Arc::clone(&self.outbox);
        while let Some(signals) = outbox.signalled().now_or_never() {
            self.signalled(signals);
        }
        for destination in std::mem::take(&mut self.maybe_idle) {
            if let Entry::Occupied(lane) = self.lanes.entry(destination)
                && lane.get().is_idle()
            {
                let (destination, lane) = lane.remove_entry();
                self.remembered.put(destination, lane.remembered());
            }
        }
    }

    fn start(&mut self, claim: Claim, turn: &Turn) {
        let destination = &turn.destination;
        let keep_connection = self.connections.keep(destination, Instant::now());
        let Some(lane) = self.lanes.get_mut(destination) else { return };
        lane.start();
        self.unsettled += 1;
        let slot = self.shares.start(turn, Instant::now());
        let attempt = AttemptTask {
            outbox: Arc::clone(&self.outbox),
            sender: Arc::clone(&self.sender),
            settings: Arc::clone(&self.settings),
            jumps: Arc::clone(&self.jumps),
            settling: self.settling.clone(),
            taken: Taken::new(destination.clone(), slot, self.events.clone()),
            unsettled: Unsettled::new(destination.clone(), self.events.clone()),
            close_after: !keep_connection,
        };
        let abort = self.abort.subscribe();
        tokio::spawn(attempt.run(claim, abort));
    }
}
