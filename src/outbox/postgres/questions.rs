//! Questions between instances: an operator's action on a destination is carried out by its owner, which
//! knows what is in flight. A row contains the question and then the answer; notifications avoid the wait for the
//! next poll.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    read::{Arg, Reads},
    rows::{self, millis},
    shard::SHARDS,
    writer::Writer,
};
use crate::{
    callback::{CallbackId, Destination},
    clock::Timestamp,
    outbox::{Cancelled, ErrorKind, Failure, OutboxError, OutboxFuture, error::Result, record},
};

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Interval at which an answer is polled.
const PAUSE: Duration = Duration::from_millis(20);

/// A question older than this is abandoned.
const OLD: Duration = Duration::from_mins(1);

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    Replay(Vec<CallbackId>),
    Cancel(Vec<CallbackId>),
    RetryNow(Vec<CallbackId>),
    Pause(Destination, bool),
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The answer to a replay or to `retry_now`.
    Count(u64),
    Cancelled(Vec<Cancelled>),
    Paused(bool),
    Failed(String),
}

impl Reads {
    /// Asks the owner of a shard.
    pub(super) async fn ask(
        &self,
        shard: usize,
        question: &Question,
        now: Timestamp,
    ) -> Result<Answer> {
        let bytes = record::encode(question)?;
        let shard = i32::try_from(shard % SHARDS).unwrap_or(0);
        let args = [Arg::Int(shard), Arg::Long(millis(now)), Arg::Bytes(&bytes)];
        let sql = "INSERT INTO @schema@.asked (shard, asked_at, question) VALUES ($1, $2, $3) RETURNING id";
        let asked = self.query(sql, &args).await?;
        let id: i64 = asked.first().map_or(0, |row| row.get(0));
        self.notify_asked();
        let end = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(PAUSE).await;
            let sql = "SELECT answer FROM @schema@.asked WHERE id = $1 AND answer IS NOT NULL";
            if let Some(row) = self.query(sql, &[Arg::Long(id)]).await?.first() {
                let answer = record::decode(row.get(0))?;
                self.query("DELETE FROM @schema@.asked WHERE id = $1", &[Arg::Long(id)]).await?;
                return match answer {
                    Answer::Failed(reason) => Err(OutboxError::Unreachable(reason.into())),
                    answer => Ok(answer),
                };
            }
        }
        self.query("DELETE FROM @schema@.asked WHERE id = $1", &[Arg::Long(id)]).await?;
        let why = "no instance that delivers to this destination has answered";
        Err(OutboxError::Unsure(why.into()))
    }
}

impl Writer {
    /// Answers the questions about this instance's shards. Returns whether there were any.
    pub(super) async fn answer_questions(&self) -> Result<bool> {
        let own = self.queues.lock().own_shards();
        let asked = self.query(&self.statements.asked, &[&own]).await?;
        for row in &asked {
            let answer = match record::decode(row.get("question")) {
                Ok(question) => match self.do_asked(question).await {
                    Ok(answer) => answer,
                    Err(error) if error.is_away() => return Err(error),
                    Err(error) => Answer::Failed(error.to_string()),
                },
                Err(error) => Answer::Failed(format!("the question cannot be read: {error}")),
            };
            let bytes = record::encode(&answer)?;
            self.query(&self.statements.answered, &[&row.get::<_, i64>("id"), &bytes]).await?;
        }
        Ok(!asked.is_empty())
    }

    async fn do_asked(&self, question: Question) -> Result<Answer> {
        Ok(match question {
            Question::Replay(ids) => Answer::Count(self.frozen(self.replay(&ids)).await?),
            Question::RetryNow(ids) => Answer::Count(self.frozen(self.retry_now(&ids)).await?),
            Question::Cancel(ids) => {
                let failure = Failure::new(ErrorKind::Cancelled, "cancelled by an operator");
                Answer::Cancelled(self.frozen(self.cancel(&ids, &failure)).await?)
            }
            Question::Pause(destination, paused) => {
                Answer::Paused(self.frozen(self.pause(&destination, paused)).await?)
            }
        })
    }

    /// Removes abandoned questions.
    pub(super) async fn forget_questions(&self) -> Result<()> {
        let old = rows::millis(self.now().before(OLD));
        self.query(&self.statements.old_questions, &[&old]).await.map(drop)
    }
}

pub(super) fn misunderstood() -> OutboxError {
    OutboxError::Engine("the answer of another instance does not match the question".into())
}

pub(super) const COUNT: fn(Answer) -> Option<u64> = |answer| match answer {
    Answer::Count(count) => Some(count),
    _ => None,
};

/// The sum over all parts.
pub(super) fn summed(parts: OutboxFuture<Vec<(Vec<CallbackId>, u64)>>) -> OutboxFuture<u64> {
    Box::pin(async move { Ok(parts.await?.into_iter().map(|(_, count)| count).sum()) })
}
