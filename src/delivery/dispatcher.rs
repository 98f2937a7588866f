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
//! in turn, at most [`QUANTUM`] claims each, so a long queue costs the others one turn; see
//! [`shares`](super::shares) for whose turn it is. Nothing is claimed while too many outcomes wait for
//! the disk: what is sent meanwhile would be sent again after a kill.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    attempt::Sender,
    client::POOL_IDLE_TIMEOUT,
    jumps::Jumps,
    lane::{self, Health, Lane, Remembered},
    log::log_breaker,
    recent::Recent,
    retry,
    shares::{Shares, Turn},
    task::{self, AttemptTask, Ended, Event, Settling, Taken, Unsettled},
};
use crate::{
    callback::Destination,
    clock::{SharedClock, Timestamp},
    health::Probe,
    outbox::{Claim, Outbox},
};

/// How many callbacks of one destination are claimed before the next one has its turn.
const QUANTUM: usize = 16;

/// The machine's clock may jump while the loop sleeps on another one; it looks again after
/// this time when it waits for something.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// To how many destinations connections are kept; to more, they would be more than a process
/// may have open.
const MANY: usize = 256;

/// How long a destination rests whose rows cannot be read.
const UNREADABLE_PAUSE: Duration = Duration::from_mins(1);

/// The settings of the loop (contract, 6).
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many attempts run at once.
    pub concurrency: usize,
    /// How many of them to one destination.
    pub per_destination: usize,
    /// How many attempts may be under way or wait for the disk to have their outcome.
    pub max_unsettled: usize,
    /// When a destination is given a rest.
    pub breaker: lane::Settings,
    /// What follows from an outcome.
    pub retry: retry::Settings,
    /// How long attempts under way may go on at shutdown.
    pub shutdown_grace: Duration,
}

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
    timers: BTreeSet<(Timestamp, Destination)>,
    timer_of: HashMap<Destination, Timestamp>,
    /// The destinations to which there may be connections, and since when none was needed.
    kept: HashMap<Destination, Instant>,
    /// Lanes that may have become idle.
    resting: Vec<Destination>,
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
            timers: BTreeSet::new(),
            timer_of: HashMap::new(),
            kept: HashMap::new(),
            resting: Vec::new(),
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
        mut probes: mpsc::Receiver<Probe>,
    ) {
        let outbox = Arc::clone(&self.outbox);
        let mut batch = Vec::new();
        loop {
            // Before anything else: however much comes in, what has ended makes room.
            while let Ok(event) = self.received.try_recv() {
                self.note(event);
            }
            self.notice_jumps();
            self.notice_slow();
            self.notice_spare();
            self.fire_timers();
            // It hears signals as well, so it comes before what they ask for is served: nothing
            // may be left in the line when the loop goes to sleep.
            self.rest();
            self.serve().await;
            let sleep = self.sleep();
            // One that was limited may have found nothing to do with the slot that it was given.
            let again = !self.resting.is_empty() || self.shares.has_unlimited();
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => break,
                Some(probe) = probes.recv() => drop(probe.send(())),
                signals = outbox.signalled() => self.signalled(signals),
                n = self.received.recv_many(&mut batch, 1024) => {
                    debug_assert!(n > 0, "the loop holds a sender itself");
                    batch.drain(..).for_each(|event| self.note(event));
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
                Ok(Some(event)) => self.note(event),
                Ok(None) => return,
                Err(_) => break,
            }
        }
        // The tasks hear it, give their claims back, and say so.
        drop(std::mem::replace(&mut self.abort, watch::channel(()).0));
        while self.unsettled > 0 {
            match self.received.recv().await {
                Some(event) => self.note(event),
                None => return,
            }
        }
    }

    fn sleep(&mut self) -> impl Future<Output = ()> + use<> {
        let timer = self.timers.first().map(|(at, _)| {
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
            let again = || self.remembered.take(&destination).map(Lane::again).unwrap_or_default();
            self.lanes.entry(destination.clone()).or_insert_with(again).due(due);
            self.schedule(&destination);
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Ended(Ended { destination, health, slot }) => {
                let took = self.shares.end(slot, health, Instant::now());
                if health == Health::Failing {
                    // There is none, and its place is another one's.
                    self.kept.remove(&destination);
                }
                let now = self.clock.now();
                let Some(lane) = self.lanes.get_mut(&destination) else { return };
                lane.pace.ended(took, health);
                if lane.end(health, &self.settings.breaker, now) {
                    let open = lane.open();
                    self.outbox.report(&destination, open);
                    log_breaker(&destination, open.map(|it| it.next_probe_at));
                }
                self.schedule(&destination);
            }
            Event::Settled(destination) => {
                self.unsettled -= 1;
                if let Some(lane) = self.lanes.get_mut(&destination) {
                    lane.unsettled -= 1;
                    if lane.is_idle() {
                        self.resting.push(destination);
                    }
                }
            }
        }
    }

    /// Puts the lane into the line of those to be served, or sets its timer.
    fn schedule(&mut self, destination: &Destination) {
        let Some(lane) = self.lanes.get_mut(destination) else { return };
        if let Some(old) = self.timer_of.remove(destination) {
            self.timers.remove(&(old, destination.clone()));
        }
        let (now, level) = (self.clock.now(), lane.pace.level());
        let (limit, spare) = (self.settings.per_destination, self.shares.spare(level));
        if lane.limited != Some(level) && lane.is_limited(limit, spare, now) {
            lane.limited = Some(level);
            self.shares.limit(destination.clone(), level);
        }
        match lane.wake_at(limit, spare) {
            Some(at) if at > now => {
                self.timers.insert((at, destination.clone()));
                self.timer_of.insert(destination.clone(), at);
            }
            // Where its level has changed, what stands at the old place is passed over.
            Some(_) if lane.place.is_none_or(|place| !place.is_of(level)) => {
                lane.place = Some(self.shares.push(destination.clone(), level));
            }
            _ => {}
        }
    }

    /// When the clock has gone back, what waits for a time may wait for one that is far away.
    fn notice_jumps(&mut self) {
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
    fn notice_slow(&mut self) {
        for (destination, so_far) in self.shares.risen(Instant::now()) {
            if let Some(lane) = self.lanes.get_mut(&destination) {
                lane.pace.at_least(so_far);
            }
            self.schedule(&destination);
        }
    }

    /// Those that were limited may start more where half of all slots are free again: as many as
    /// there are slots for, or each slot that is freed would have all of them look.
    fn notice_spare(&mut self) {
        for (destination, level) in self.shares.unlimited() {
            let Some(lane) = self.lanes.get_mut(&destination) else { continue };
            if lane.limited == Some(level) {
                lane.limited = None;
                self.schedule(&destination);
            }
        }
    }

    fn fire_timers(&mut self) {
        let now = self.clock.now();
        let mut due = Vec::new();
        while let Some((at, destination)) = self.timers.pop_first() {
            if at > now {
                self.timers.insert((at, destination));
                break;
            }
            self.timer_of.remove(&destination);
            due.push(destination);
        }
        // Not before all are taken out: a clock that goes back just now puts one in again.
        due.iter().for_each(|destination| self.schedule(destination));
    }

    /// Starts what can start: lane after lane, as long as there are slots.
    async fn serve(&mut self) {
        let most = self.settings.max_unsettled;
        while let Some(turn) = self.shares.next(most.saturating_sub(self.unsettled), Instant::now())
        {
            let now = self.clock.now();
            let destination = &turn.destination;
            let Some(lane) = self.lanes.get_mut(destination) else { continue };
            if lane.place != Some(turn.place) {
                continue;
            }
            lane.place = None;
            let spare = self.shares.spare(lane.pace.level());
            let room = lane.room(self.settings.per_destination, spare, now);
            let room = room.min(QUANTUM).min(turn.share);
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
                self.resting.push(turn.destination);
            }
        }
    }

    /// Lets go of lanes for which there is nothing to do, and remembers what is known of them: their
    /// next callback may only wait for another destination's. What the outbox has to say is heard
    /// first.
    fn rest(&mut self) {
        if self.resting.is_empty() {
            return;
        }
        let outbox = Arc::clone(&self.outbox);
        while let Some(signals) = outbox.signalled().now_or_never() {
            self.signalled(signals);
        }
        for destination in std::mem::take(&mut self.resting) {
            if let Entry::Occupied(lane) = self.lanes.entry(destination)
                && lane.get().is_idle()
            {
                let (destination, lane) = lane.remove_entry();
                self.remembered.put(destination, lane.remembered());
            }
        }
    }

    /// Whether a connection to the destination is kept for later ones.
    fn keeps(&mut self, destination: &Destination) -> bool {
        let now = Instant::now();
        if self.kept.len() >= MANY && !self.kept.contains_key(destination) {
            self.kept.retain(|_, at| now.duration_since(*at) < POOL_IDLE_TIMEOUT);
            if self.kept.len() >= MANY {
                return false;
            }
        }
        self.kept.insert(destination.clone(), now);
        true
    }

    fn start(&mut self, claim: Claim, turn: &Turn) {
        let destination = &turn.destination;
        let kept = self.keeps(destination);
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
            last: !kept,
        };
        let abort = self.abort.subscribe();
        tokio::spawn(attempt.run(claim, abort));
    }
}
