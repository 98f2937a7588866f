//! A session: pulls messages from the consumer until the connection or the leading instance changes.
//!
//! Messages are received in the order of the stream, stored in that order, and acknowledged when they are
//! durable. A new request for messages is made when the messages of the previous one are stored or being
//! stored, so the messages of at most two requests are in memory. While the outbox refuses, or a dead letter
//! cannot be published, nothing is pulled, and progress is reported to the server for the messages held.
//!
//! After any error, the messages held may be dropped: the server redelivers them, and those that were stored
//! are duplicates.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use async_nats::jetstream::{AckKind, Context, Message, consumer::pull::Batch};
use futures_util::FutureExt as _;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    awaited::{Chunk, Request, at, drain, next, oldest},
    binding::{Binding, bind},
    connection::PATIENCE,
    dead_letter::Poison,
    fault::Fault,
    message,
    shared::Shared,
};
use crate::{
    clock::Timestamp,
    intake::EventOutcome,
    measure,
    outbox::{OutboxError, Sequence},
};

/// How many calls of the outbox are in progress at the same time.
const UNDER_WAY: usize = 2;

/// Pause before the outbox or the dead-letter subject is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How often to check whether this instance should still pull.
const CHECK: Duration = Duration::from_millis(500);

/// How long storing the messages held may take when the session ends.
const GRACE: Duration = Duration::from_secs(5);

/// Why a session ends.
enum End {
    /// The service stops, or another instance pulls.
    Released,
    /// The connection was re-established, or the server ended the request.
    Again(Result<(), Fault>),
}

/// One session.
pub(super) struct Session<'a> {
    source: &'a Shared,
    context: Context,
    binding: Binding,
    made: watch::Receiver<u64>,
    waiting: VecDeque<Message>,
    under_way: VecDeque<Chunk>,
    poison: VecDeque<Poison>,
    sequence: Sequence,
    /// Whether the outbox has refused and nothing was stored since.
    refused: bool,
    /// When it is tried again.
    store_at: Option<Instant>,
    /// When the dead letter is published again.
    bury_at: Option<Instant>,
    /// Consecutive requests that returned nothing although messages are pending.
    stale: u32,
}

impl<'a> Session<'a> {
    /// Finds the consumer, and waits until unacknowledged messages of an earlier session are redelivered.
    pub(super) async fn begin(source: &'a Shared, context: Context) -> Result<Self, Fault> {
        let mut made = source.connection.made.clone();
        made.mark_unchanged();
        let binding = bind(&context, &source.settings).await?;
        drop(source.connection.take_said());
        measure::nats_behind(binding.behind);
        Ok(Self {
            source,
            context,
            binding,
            made,
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            poison: VecDeque::new(),
            sequence: Sequence::default(),
            refused: false,
            store_at: None,
            bury_at: None,
            stale: 0,
        })
    }

    /// Pulls until the session ends. An error is the reason why another session must begin.
    pub(super) async fn run(mut self) -> Result<(), Fault> {
        if !self.wait_for_older().await? {
            return Ok(());
        }
        let every = |period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut progress, mut checks) = (every(self.binding.ack_wait / 3), every(CHECK));
        let mut end: Option<(End, Instant)> = None;
        let mut request: Option<Request> = None;
        loop {
            self.store();
            let held = self.refused || !self.poison.is_empty();
            if let Some((why, since)) = &end {
                if self.in_hand() > 0 && !held && since.elapsed() < GRACE {
                    // Store the messages held first.
                } else if let End::Again(result) = why {
                    return result.clone();
                } else {
                    self.give_back().await;
                    return Ok(());
                }
            } else if !held {
                if request.is_none() && self.in_hand() <= self.source.settings.batch {
                    request = Some(Request { batch: self.request().await?, count: 0 });
                }
                self.source.pulling();
            }
            tokio::select! {
                // Rare events come first, because a busy stream would starve them.
                biased;
                _ = checks.tick(), if end.is_none() => {
                    let released = self.source.is_released();
                    if released || self.made.has_changed().unwrap_or(true) {
                        drain(&mut self.waiting, &mut request);
                        request = None;
                        let why = if released { End::Released } else { End::Again(Ok(())) };
                        end = Some((why, Instant::now()));
                    }
                }
                _ = progress.tick(), if self.in_hand() > 0 => self.in_progress().await,
                () = at(self.store_at) => self.store_at = None,
                () = at(self.bury_at) => self.bury().await,
                stored = oldest(&mut self.under_way) => self.stored(stored).await?,
                next = next(&mut request) => match next {
                    Some(Ok(message)) => {
                        if self.in_hand() == 0 {
                            progress.reset();
                        }
                        self.take(message, &mut request);
                    }
                    Some(Err(error)) => {
                        let fault = Fault::request("pulling messages", error);
                        end.get_or_insert((End::Again(Err(fault)), Instant::now()));
                        request = None;
                    }
                    None => {
                        let count = request.take().map_or(0, |request| request.count);
                        if end.is_none() && let Err(again) = self.check(count).await {
                            end = Some((End::Again(again), Instant::now()));
                        }
                    }
                },
            }
        }
    }

    fn in_hand(&self) -> usize {
        let under_way: usize = self.under_way.iter().map(|chunk| chunk.messages.len()).sum();
        self.waiting.len() + under_way + self.poison.len()
    }

    /// Messages that were delivered and not acknowledged are redelivered after `ack_wait`; until then, new
    /// messages would overtake them. Returns `false` if this instance must stop pulling first.
    async fn wait_for_older(&mut self) -> Result<bool, Fault> {
        let until = Instant::now() + self.binding.ack_wait + Duration::from_secs(1);
        let mut pending = self.binding.ack_pending;
        while pending > 0 && Instant::now() < until {
            self.source.waits(
                "older",
                &format!(
                    "{pending} messages were delivered and not acknowledged; waiting for their redelivery after ack_wait"
                ),
            );
            let released = self.source.released(Duration::from_secs(1)).await;
            if released || self.made.has_changed().unwrap_or(true) {
                return Ok(false);
            }
            pending = self.info().await?.0;
        }
        Ok(true)
    }

    /// The numbers of messages that are not acknowledged, and not delivered yet.
    async fn info(&self) -> Result<(usize, u64), Fault> {
        let info = self.binding.consumer.get_info().await;
        let what = || format!("consumer {} (nats.consumer)", self.source.settings.consumer);
        let info = info.map_err(|error| Fault::request(what(), error))?;
        measure::nats_behind(info.num_pending);
        Ok((info.num_ack_pending, info.num_pending))
    }

    async fn request(&self) -> Result<Batch, Fault> {
        let consumer = &self.binding.consumer;
        let batch = consumer.batch().max_messages(self.source.settings.batch);
        let made = timeout(PATIENCE, batch.expires(self.binding.expires).messages()).await;
        let made = made.map_err(|error| Fault::request("requesting messages", error))?;
        made.map_err(|error| Fault::request("requesting messages", error))
    }

    /// Handles the end of a request that returned `count` messages. If these are fewer than requested, the
    /// server had no more, or messages were lost on the way. Lost messages are still unacknowledged, and only
    /// a new session receives them before newer ones.
    async fn check(&mut self, count: usize) -> Result<(), Result<(), Fault>> {
        if count >= self.source.settings.batch || self.in_hand() > 0 {
            return Ok(());
        }
        let (mut unacknowledged, behind) = self.info().await.map_err(Err)?;
        if unacknowledged > 0 {
            // The latest acknowledgements may not have reached the server yet.
            sleep(Duration::from_millis(500)).await;
            unacknowledged = self.info().await.map_err(Err)?.0;
        }
        if unacknowledged > 0 {
            return Err(Ok(()));
        }
        self.stale = if count == 0 && behind > 0 { self.stale + 1 } else { 0 };
        if self.stale >= 2 {
            let reason = format!("nothing is received although {behind} messages are pending");
            let reconnected = self.context.client().force_reconnect().await;
            let reason = reconnected.err().map_or(reason, |error| error.to_string());
            return Err(Err(Fault::request("pulling messages", reason)));
        }
        Ok(())
    }

    /// Adds a received message, and those that arrived with it.
    fn take(&mut self, message: Message, request: &mut Option<Request>) {
        let before = self.waiting.len();
        self.waiting.push_back(message);
        drain(&mut self.waiting, request);
        if let Some(request) = request {
            request.count += self.waiting.len() - before;
        }
        let now = self.source.now();
        for message in self.waiting.range(before..) {
            if let Ok(info) = message.info() {
                let published = info.published.unix_timestamp_nanos() / 1_000_000;
                let published = Timestamp::from_millis(u64::try_from(published).unwrap_or(0));
                measure::nats_pulled(now.since(published), info.pending);
            }
        }
    }

    /// Passes messages to the outbox.
    fn store(&mut self) {
        while self.store_at.is_none()
            && self.under_way.len() < UNDER_WAY
            && !self.waiting.is_empty()
        {
            let messages: Vec<_> = self.waiting.drain(..).collect();
            let source = self.source;
            let parse = |it| message::parse(it, &self.binding.stream, &source.settings);
            let events =
                messages.iter().map(|it| source.intake.prepare_parsed(parse(it))).collect();
            let stored = source.intake.take(events, self.sequence.clone()).boxed();
            self.under_way.push_back(Chunk { messages, stored: Mutex::new(stored) });
        }
    }

    /// Handles the result for the oldest messages that were being stored: all are stored, or the outbox
    /// refused.
    async fn stored(
        &mut self,
        result: Result<Vec<EventOutcome>, OutboxError>,
    ) -> Result<(), Fault> {
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.source.waits("outbox", &format!("the outbox refuses: {error}"));
                // In their order, before those received since.
                for chunk in std::mem::take(&mut self.under_way).into_iter().rev() {
                    chunk.messages.into_iter().rev().for_each(|it| self.waiting.push_front(it));
                }
                self.sequence = Sequence::default();
                self.refused = true;
                self.store_at = Some(Instant::now() + AGAIN);
                return Ok(());
            }
        };
        self.refused = false;
        let Some(chunk) = self.under_way.pop_front() else { return Ok(()) };
        let mut durable = Vec::with_capacity(outcomes.len());
        let mut duplicates = 0;
        for (message, outcome) in chunk.messages.into_iter().zip(outcomes) {
            match outcome {
                EventOutcome::Refused(malformed) => self.refused(message, malformed.to_string()),
                EventOutcome::Failed(None, reason) => self.refused(message, reason),
                EventOutcome::Duplicate(_) => {
                    duplicates += 1;
                    durable.push(message);
                }
                EventOutcome::Accepted(_)
                | EventOutcome::Ignored(_)
                | EventOutcome::Failed(Some(_), _) => durable.push(message),
            }
        }
        self.tell(&durable.iter().collect::<Vec<_>>(), AckKind::Ack).await?;
        measure::nats_acknowledged(durable.len() as u64, duplicates);
        Ok(())
    }

    fn refused(&mut self, message: Message, reason: String) {
        let sequence = message.info().map_or(0, |info| info.stream_sequence);
        let id = format!("{sequence}-{}", self.binding.stream);
        self.poison.push_back(Poison { message, reason, id });
        self.bury_at.get_or_insert_with(Instant::now);
    }

    /// Disposes of the first message that can never become an event.
    async fn bury(&mut self) {
        let Some(first) = self.poison.front() else { return };
        match first.bury(&self.context, &self.source.settings).await {
            Ok(()) => {
                tracing::warn!(
                    event.action = "nats-dead-letter",
                    event.outcome = "success",
                    event.reason = %first.reason,
                    event.id = %first.id,
                    nats.subject = %first.message.subject,
                    "a message from NATS can never become an event and was terminated"
                );
                measure::nats_dead_lettered();
                self.poison.pop_front();
                self.bury_at = self.poison.front().map(|_| Instant::now());
            }
            Err(fault) => {
                self.source.waits("dead-letter", &fault.to_string());
                self.bury_at = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// Reports to the server that the messages held are in progress.
    async fn in_progress(&self) {
        let mut all = self.unstored();
        all.extend(self.poison.iter().map(|poison| &poison.message));
        if let Err(fault) = self.tell(&all, AckKind::Progress).await {
            tracing::debug!(error.message = %fault, "progress of messages could not be reported");
        }
    }

    /// Returns messages that are not stored, so that the next session gets them at once.
    async fn give_back(&self) {
        if let Err(fault) = self.tell(&self.unstored(), AckKind::Nak(None)).await {
            tracing::debug!(error.message = %fault, "messages could not be returned");
        }
    }

    /// The messages that are not stored, in order.
    fn unstored(&self) -> Vec<&Message> {
        let under_way = self.under_way.iter().flat_map(|chunk| &chunk.messages);
        under_way.chain(&self.waiting).collect()
    }

    /// Sends the same acknowledgement for each of these messages, and waits until all are sent.
    async fn tell(&self, messages: &[&Message], kind: AckKind) -> Result<(), Fault> {
        const WHAT: &str = "acknowledging";
        let said = async {
            for message in messages {
                message.ack_with(kind).await.map_err(|error| error.to_string())?;
            }
            self.context.client().flush().await.map_err(|error| error.to_string())
        };
        match timeout(PATIENCE, said).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Fault::request(WHAT, error)),
            Err(error) => Err(Fault::request(WHAT, error)),
        }
    }
}
