//! What a session waits for: messages from the server, and calls of the outbox.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use async_nats::jetstream::{Message, consumer::pull::Batch};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use tokio::time::{Instant, sleep_until};

use crate::{intake::EventOutcome, outbox::OutboxError};

pub(super) type Stored = BoxFuture<'static, Result<Vec<EventOutcome>, OutboxError>>;

/// Messages that are being stored.
pub(super) struct Chunk {
    pub(super) messages: Vec<Message>,
    /// The lock is never contended. It makes the session `Sync`.
    pub(super) stored: Mutex<Stored>,
}

/// A request for messages.
pub(super) struct Request {
    pub(super) batch: Batch,
    /// The number of messages received for it.
    pub(super) count: usize,
}

/// The messages that were received already.
pub(super) fn drain(into: &mut VecDeque<Message>, request: &mut Option<Request>) {
    let Some(request) = request else { return };
    let mut next = || tokio::task::unconstrained(request.batch.next()).now_or_never();
    while let Some(Some(Ok(message))) = next() {
        into.push_back(message);
    }
}

/// The next message of a request, or never if there is none.
pub(super) async fn next(
    request: &mut Option<Request>,
) -> Option<Result<Message, async_nats::Error>> {
    match request {
        Some(request) => request.batch.next().await,
        None => std::future::pending().await,
    }
}

/// The outcomes of the oldest messages that are being stored, or never if there are none.
pub(super) async fn oldest(
    under_way: &mut VecDeque<Chunk>,
) -> Result<Vec<EventOutcome>, OutboxError> {
    match under_way.front_mut() {
        Some(chunk) => chunk.stored.get_mut().unwrap_or_else(PoisonError::into_inner).await,
        None => std::future::pending().await,
    }
}

/// Waits until this time, or for ever.
pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
