//! The writer: it makes all writes of a session, one round after the other.

use std::{
    sync::{Arc, Mutex, atomic::AtomicI64},
    time::Instant,
};

use tokio_postgres::{Row, Statement, types::ToSql};

use super::{
    claimant::{Claimant, LastAnswer, uptime},
    command::{Command, Round, Unsure},
    queues::Queues,
    recording::{Kept, Recording},
    session::{CALL_TIMEOUT, Connection, is_conflict, unsure},
    settings::Settings,
    shard::shard_of,
    statements::Statements,
};
use crate::{
    callback::Destination,
    clock::{SharedClock, Timestamp},
    measure,
    outbox::{OutboxError, error::Result, ids::QueueKey},
};

/// How often a call is repeated that PostgreSQL rolled back because of another one.
const CONFLICTS: u32 = 10;

/// The writer of one session.
pub(super) struct Writer {
    pub(super) settings: Arc<Settings>,
    pub(super) queues: Arc<Queues>,
    pub(super) session: Connection,
    pub(super) statements: Statements,
    pub(super) claimant: Arc<Claimant>,
    pub(super) last_answer: Arc<LastAnswer>,
    pub(super) kept: Kept,
    /// The call whose answer was lost, which ends the session.
    pub(super) unsure: Mutex<Option<Unsure>>,
    /// The token of the last call that stored callbacks, whose answer has arrived.
    pub(super) answered: AtomicI64,
    /// The number of this instance, and of its counters.
    pub(super) slot: i32,
    /// The seq after which new callbacks are polled, and their number at the last poll.
    pub(super) looked_for: Mutex<(i64, Option<i64>)>,
    /// When the session began, as [`uptime`].
    pub(super) began: std::time::Duration,
    /// Whether this is a command, which takes shards only if no instance is running.
    pub(super) is_command: bool,
    pub(super) clock: SharedClock,
    pub(super) salt: [u8; 16],
}

impl Writer {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn queue(&self, destination: &Destination) -> QueueKey {
        QueueKey::of(&self.salt, destination)
    }

    /// Executes a statement and returns its rows. An answer proves that the session held its locks when the
    /// request was sent.
    pub(super) async fn query(
        &self,
        statement: &Statement,
        args: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let mut tries = 0;
        loop {
            let sent = uptime();
            let asked = self.session.client.query(statement, args);
            match tokio::time::timeout(CALL_TIMEOUT, asked).await {
                Ok(Ok(rows)) => {
                    self.last_answer.set(sent);
                    measure::round_trip(uptime().saturating_sub(sent));
                    return Ok(rows);
                }
                // It conflicted with another call and was rolled back.
                Ok(Err(error)) if is_conflict(&error) && tries < CONFLICTS => tries += 1,
                Ok(Err(error)) => return Err(unsure(error)),
                Err(_) => return Err(OutboxError::Unsure("no answer from the database".into())),
            }
        }
    }

    /// The same for a statement that returns one row.
    pub(super) async fn query_one(
        &self,
        statement: &Statement,
        args: &[&(dyn ToSql + Sync)],
    ) -> Result<Row> {
        let no_row = || OutboxError::Engine("the database returned no row".into());
        self.query(statement, args).await?.into_iter().next().ok_or_else(no_row)
    }

    /// Executes a round. A returned error is a connection error.
    pub(super) async fn make(&self, round: Round) -> Result<()> {
        if let Some(action) = round.action {
            return self.act(action).await;
        }
        let callbacks = round.callbacks();
        let begin = Instant::now();
        let again = self.enqueue(round.enqueues).await?;
        if again.is_empty() {
            self.settle(round.settles).await?;
            if callbacks > 0 {
                measure::committed(callbacks, begin.elapsed());
            }
            return Ok(());
        }
        // There may not be room for all events; then the order of their calls decides.
        let mut commands: Vec<_> = again.into_iter().map(Command::Enqueue).collect();
        commands.extend(round.settles.into_iter().map(Command::Settle));
        commands.sort_by_key(Command::place);
        for command in commands {
            match command {
                Command::Enqueue(it) => self.enqueue_alone(it).await?,
                Command::Settle(it) => self.settle(vec![it]).await?,
                Command::Act(_) => {}
            }
        }
        Ok(())
    }

    pub(super) fn has_nothing_kept(&self) -> bool {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_empty()
    }

    /// Takes the kept outcomes of a shard.
    pub(super) fn take_kept(&self, shard: usize) -> Vec<Recording> {
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (own, others) = kept.drain(..).partition(|it| shard_of(it.queue()) == shard);
        *kept = others;
        own
    }
}
