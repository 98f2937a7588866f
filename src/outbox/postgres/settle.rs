//! Recording outcomes.

use std::{collections::HashSet, sync::PoisonError};

use super::{
    command::{Settle, answer},
    recording::{Recording, decide},
    rows::{self, big, millis, number},
    storing::Args,
    writer::Writer,
};
use crate::{
    clock::Timestamp,
    measure,
    outbox::{
        Readiness, Record, State, StateName,
        error::Result,
        ids::{self, QueueKey},
    },
};

/// Maximum number of attempts of a callback that are kept, in addition to the last one.
const ATTEMPTS_KEPT: i32 = 1000;

impl Writer {
    /// Records outcomes with one call.
    pub(super) async fn settle(&self, settles: Vec<Settle>) -> Result<()> {
        let now = self.now();
        let decided = |it| decide(&self.queues, &self.settings, it, now);
        self.settle_decided(settles.into_iter().filter_map(decided).collect()).await
    }

    /// The same for outcomes that were decided. If the connection breaks, they are kept, and the error is
    /// returned.
    pub(super) async fn settle_decided(&self, mut outcomes: Vec<Recording>) -> Result<()> {
        if outcomes.is_empty() {
            return Ok(());
        }
        match self.record(&mut outcomes, self.now()).await {
            Ok(()) => {
                for Recording { record, reply, .. } in outcomes {
                    answer(reply, Ok(record));
                }
                Ok(())
            }
            Err(error) if error.is_away() => {
                self.kept.lock().unwrap_or_else(PoisonError::into_inner).extend(outcomes);
                Err(error)
            }
            Err(error) => {
                for outcome in outcomes {
                    let (seq, key) = ids::parts(outcome.record.id);
                    self.queues.release_now(key, seq, self.now());
                    outcome.refuse(error.clone());
                }
                Ok(())
            }
        }
    }

    async fn record(&self, outcomes: &mut [Recording], now: Timestamp) -> Result<()> {
        fn each<T>(of: &[Recording], part: impl Fn(&Record) -> T) -> Vec<T> {
            of.iter().map(|it| part(&it.record)).collect()
        }
        let fallible = |part: &dyn Fn(&Recording) -> Result<Option<Vec<u8>>>| {
            outcomes.iter().map(part).collect::<Result<Vec<_>>>()
        };
        let (seqs, keys): (Vec<_>, Vec<_>) =
            each(outcomes, |it| rows::parts(it.id)).into_iter().unzip();
        let errors = fallible(&|it| rows::encoded(it.record.last_error.as_ref()))?;
        let last = fallible(&|it| rows::encoded(it.record.last_attempt.as_ref()))?;
        let previous = fallible(&|it| rows::encoded(it.previous.as_ref()))?;
        let holds: Vec<_> = outcomes.iter().map(|it| it.hold.map(millis)).collect();
        let (status, due) = (
            each(outcomes, |it| rows::status(it.state_name())),
            each(outcomes, |it| millis(rows::due(it))),
        );
        let attempts = each(outcomes, |it| number(it.attempt_count));
        let budget_attempts = each(outcomes, |it| number(it.budget_attempts));
        let budget_since = each(outcomes, |it| millis(it.budget_since));
        let kinds = each(outcomes, rows::kind_of);
        let events = self.events_about(outcomes.iter().map(|it| &it.record), now)?;
        let at = millis(now);
        let args: Args<'_> = vec![
            &at,
            &self.slot,
            &ATTEMPTS_KEPT,
            &seqs,
            &keys,
            &status,
            &due,
            &attempts,
            &budget_attempts,
            &budget_since,
            &kinds,
            &errors,
            &last,
            &previous,
            &holds,
        ];
        let statements = (&self.statements.settle, &self.statements.with_events.settle);
        let answered = self.query_with_events(statements, args, &events, now).await?;
        let (mut active, mut idle) = (HashSet::new(), Vec::new());
        for row in &answered {
            match row.get::<_, Option<i64>>("seq") {
                Some(seq) => {
                    active.insert(seq);
                }
                None => idle.push(QueueKey(rows::unbig(row.get("queue")))),
            }
        }
        let ended = |state| outcomes.iter().filter(|it| it.record.state_name() == state).count();
        measure::ended(ended(StateName::Delivered) as u64, ended(StateName::Failed) as u64);
        let others: Vec<_> = active.iter().copied().filter(|seq| !seqs.contains(seq)).collect();
        let others = self.records(&others).await?;
        let mut queues = self.queues.lock();
        for outcome in outcomes {
            let record = &mut outcome.record;
            let (seq, key) = ids::parts(record.id);
            if let Some(queue) = queues.queues.get_mut(&key) {
                queue.settled(seq);
                queue.hold_until = outcome.hold.unwrap_or(queue.hold_until);
            }
            if let State::Pending(Readiness::Scheduled(due)) = record.state {
                if active.contains(&big(seq)) {
                    queues.activated(key, record.clone());
                } else {
                    record.state = State::Pending(Readiness::Blocked(due));
                }
            }
        }
        for record in others {
            queues.activated(ids::parts(record.id).1, record);
        }
        for key in idle {
            queues.set_pending(key, false);
        }
        drop(queues);
        self.queues.wake();
        Ok(())
    }

    /// Callbacks by their seqs.
    pub(super) async fn records(&self, seqs: &[i64]) -> Result<Vec<Record>> {
        if seqs.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.query(&self.statements.records, &[&seqs]).await?;
        found.iter().map(rows::record).collect()
    }
}
