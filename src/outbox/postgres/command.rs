//! The commands that are sent to the writer, and which of them are combined into one round.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    outbox::{
        Cancelled, Enqueued, Entry, Failure, Mended, NewCallback, OutboxError, Over, Record, Scope,
        Sequence, Settlement, error::Result,
    },
};

/// Maximum number of callbacks that one call enqueues or settles, unless a single command has more.
const ROUND: usize = 512;

/// Approximate maximum of what one call sends, in bytes, unless a single command has more.
const ROUND_BYTES: usize = 1024 * 1024;

/// Receives the answer to a command.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// A batch to be enqueued.
pub(super) struct Enqueue {
    /// Its position among the commands of a round.
    pub(super) place: usize,
    pub(super) batch: Vec<NewCallback>,
    pub(super) sequence: Sequence,
    pub(super) reply: Reply<Vec<Enqueued>>,
}

/// How long a call whose answer was lost waits for another session.
const UNSURE_FOR: Duration = Duration::from_secs(10);

/// Batches of a call whose answer was lost.
pub(super) struct Unsure {
    pub(super) token: i64,
    pub(super) batches: Vec<Enqueue>,
    pub(super) error: OutboxError,
    /// Since when it is repeated.
    pub(super) since: Instant,
}

impl Unsure {
    pub(super) fn is_too_old(&self) -> bool {
        self.since.elapsed() >= UNSURE_FOR
    }

    /// They may have been stored or not.
    pub(super) fn give_up(self) {
        refuse(self.batches, &self.error);
    }
}

/// An outcome to be recorded.
pub(super) struct Settle {
    /// Its position among the commands of a round.
    pub(super) place: usize,
    pub(super) record: Box<Record>,
    pub(super) settlement: Settlement,
    pub(super) reply: Reply<Record>,
}

/// What an operator does, and upkeep.
pub(super) enum Action {
    Replay(Vec<CallbackId>, Reply<u64>),
    Cancel(Vec<CallbackId>, Reply<Vec<Cancelled>>),
    RetryNow(Vec<CallbackId>, Reply<u64>),
    Pause(Destination, bool, Reply<bool>),
    Expire(Scope, Timestamp, Failure, Reply<Vec<Record>>),
    Purge(Over, Reply<u64>),
    Mend(Vec<u8>, Reply<Mended>),
    Notify(Reply<u64>),
    Import(Vec<Entry>, Reply<u64>),
    Ping(Reply<()>),
}

/// A command.
pub(super) enum Command {
    Enqueue(Enqueue),
    Settle(Settle),
    Act(Action),
}

/// Commands that are made together.
#[derive(Default)]
pub(super) struct Round {
    pub(super) enqueues: Vec<Enqueue>,
    pub(super) settles: Vec<Settle>,
    /// Alone, if it is there.
    pub(super) action: Option<Action>,
}

impl Round {
    /// Takes the next commands that can be made together as if they were made one after the other: events
    /// and outcomes of different jobs. What can never be sent counts among the failed, so it is not
    /// combined with outcomes.
    pub(super) fn take(commands: &mut VecDeque<Command>) -> Self {
        let mut round = Self::default();
        let (mut settled, mut accepted) = (HashSet::new(), HashSet::new());
        let (mut callbacks, mut bytes, mut refused) = (0, 0, false);
        while let Some(next) = commands.front() {
            let (more, size) = match next {
                Command::Act(_) => {
                    if round.enqueues.is_empty()
                        && round.settles.is_empty()
                        && let Some(Command::Act(action)) = commands.pop_front()
                    {
                        round.action = Some(action);
                    }
                    break;
                }
                Command::Enqueue(it) => {
                    refused |= it.batch.iter().any(|new| new.refusal.is_some());
                    if it.batch.iter().any(|new| settled.contains(&new.body.job_id)) {
                        break;
                    }
                    (it.batch.len(), it.batch.iter().map(NewCallback::text_bytes).sum())
                }
                Command::Settle(it) if accepted.contains(&it.record.body.job_id) => break,
                Command::Settle(it) => (1, it.settlement.text_bytes()),
            };
            let is_first = round.enqueues.is_empty() && round.settles.is_empty();
            let fits = callbacks + more <= ROUND && bytes + size <= ROUND_BYTES;
            let is_mixed = match next {
                Command::Enqueue(_) => !round.settles.is_empty(),
                _ => !round.enqueues.is_empty(),
            };
            if !is_first && (!fits || (refused && is_mixed)) {
                break;
            }
            callbacks += more;
            bytes += size;
            let place = round.enqueues.len() + round.settles.len();
            match commands.pop_front() {
                Some(Command::Enqueue(it)) => {
                    accepted.extend(it.batch.iter().map(|new| new.body.job_id.clone()));
                    round.enqueues.push(Enqueue { place, ..it });
                }
                Some(Command::Settle(it)) => {
                    settled.insert(it.record.body.job_id.clone());
                    round.settles.push(Settle { place, ..it });
                }
                Some(Command::Act(_)) | None => break,
            }
        }
        round
    }

    /// How many callbacks are stored or settled with it.
    pub(super) fn callbacks(&self) -> usize {
        self.enqueues.iter().map(|it| it.batch.len()).sum::<usize>() + self.settles.len()
    }
}

impl Action {
    fn refuse(self, error: OutboxError) {
        match self {
            Self::Replay(_, reply)
            | Self::RetryNow(_, reply)
            | Self::Purge(_, reply)
            | Self::Notify(reply)
            | Self::Import(_, reply) => answer(reply, Err(error)),
            Self::Cancel(_, reply) => answer(reply, Err(error)),
            Self::Pause(_, _, reply) => answer(reply, Err(error)),
            Self::Expire(_, _, _, reply) => answer(reply, Err(error)),
            Self::Mend(_, reply) => answer(reply, Err(error)),
            Self::Ping(reply) => answer(reply, Err(error)),
        }
    }
}

impl Command {
    /// Its place in its round.
    pub(super) fn place(&self) -> usize {
        match self {
            Self::Enqueue(it) => it.place,
            Self::Settle(it) => it.place,
            Self::Act(_) => 0,
        }
    }

    /// Answers with an error.
    pub(super) fn refuse(self, error: OutboxError) {
        match self {
            Self::Enqueue(it) => {
                it.sequence.refuse(&error);
                answer(it.reply, Err(error));
            }
            Self::Settle(it) => answer(it.reply, Err(error)),
            Self::Act(it) => it.refuse(error),
        }
    }
}

/// Refuses batches.
pub(super) fn refuse(batches: Vec<Enqueue>, error: &OutboxError) {
    for it in batches {
        it.sequence.refuse(error);
        answer(it.reply, Err(error.clone()));
    }
}

pub(super) fn answer<T>(reply: Reply<T>, result: Result<T>) {
    // The caller may be gone, but the write has been made.
    drop(reply.send(result));
}
