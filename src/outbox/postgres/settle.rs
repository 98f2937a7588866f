//! Recording outcomes.

use std::{collections::HashSet, sync::PoisonError};

use super::{
    Settings,
    command::{Reply, Settle, answer},
    lanes::Lanes,
    rows::{self, big, millis, number},
    writer::Writer,
};
use crate::{
    clock::Timestamp,
    outbox::{
        Attempt, ErrorKind, OutboxError, Readiness, Record, Settlement, State,
        error::Result,
        horizon::Horizon,
        ids::{self, QueueKey},
        transition,
    },
};

/// Maximum number of attempts of a callback that are kept, in addition to the last one.
const ATTEMPTS_KEPT: i32 = 1000;

/// An outcome, what is written of it, and who waits for that.
pub(super) struct Outcome {
    pub(super) record: Record,
    previous: Option<Attempt>,
    hold: Option<Timestamp>,
    reply: Reply<Record>,
}

impl Outcome {
    /// Its destination.
    pub(super) fn queue(&self) -> QueueKey {
        ids::parts(self.record.id).1
    }

    /// It cannot be recorded any more.
    pub(super) fn refuse(self, error: OutboxError) {
        answer(self.reply, Err(error));
    }
}

/// Decides what is written of an outcome; `None` if nothing is, because the callback is due again.
pub(super) fn decide(
    lanes: &Lanes,
    settings: &Settings,
    it: Settle,
    now: Timestamp,
) -> Option<Outcome> {
    let Settle { record, settlement, reply, .. } = it;
    let (seq, queue) = ids::parts(record.id);
    let began = record.budget_since;
    let (paused, resumed_at, held) = match lanes.lock().lanes.get(&queue) {
        Some(lane) => (lane.paused_at.is_some(), lane.resumed_at, lane.hold_until),
        None => (false, Timestamp::default(), Timestamp::default()),
    };
    let record = Record { budget_since: began.max(resumed_at), ..*record };
    let settlement = match settlement {
        // The decision was based on the age at the time of the claim; the destination has been paused or
        // resumed since.
        Settlement::Failed { attempt, failure, hold }
            if failure.kind == ErrorKind::Expired && (paused || record.budget_since > began) =>
        {
            let Some(attempt) = attempt else {
                lanes.release(queue, seq, now);
                answer(reply, Ok(record));
                return None;
            };
            Settlement::Retry { attempt, due: now, hold }
        }
        settlement => settlement,
    };
    let previous = record.last_attempt.clone().filter(|_| settlement.attempt().is_some());
    let horizon = Horizon { now, latest: now.after(settings.longest_pause) };
    let known = if horizon.is_later(held) { held } else { Timestamp::default() };
    let (record, until) = match settlement {
        Settlement::Delivered(attempt) => (transition::deliver(record, attempt, now), None),
        Settlement::Failed { attempt, failure, hold } => {
            (transition::fail(record, attempt, failure, now), hold)
        }
        Settlement::Retry { attempt, due, hold } => {
            (transition::retry(record, attempt, due, true), hold)
        }
    };
    Some(Outcome { record, previous, hold: until.map(|it| it.max(known)), reply })
}

impl Writer {
    /// Records outcomes with one call.
    pub(super) async fn settle(&self, settles: Vec<Settle>) -> Result<()> {
        let now = self.now();
        let decided = |it| decide(&self.lanes, &self.settings, it, now);
        self.settle_decided(settles.into_iter().filter_map(decided).collect()).await
    }

    /// The same for outcomes that were decided. If the connection breaks, they are kept, and that is the
    /// error.
    pub(super) async fn settle_decided(&self, mut outcomes: Vec<Outcome>) -> Result<()> {
        if outcomes.is_empty() {
            return Ok(());
        }
        match self.record(&mut outcomes, self.now()).await {
            Ok(()) => {
                for Outcome { record, reply, .. } in outcomes {
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
                    let (seq, queue) = ids::parts(outcome.record.id);
                    self.lanes.release(queue, seq, self.now());
                    outcome.refuse(error.clone());
                }
                Ok(())
            }
        }
    }

    async fn record(&self, outcomes: &mut [Outcome], now: Timestamp) -> Result<()> {
        fn each<T>(of: &[Outcome], part: impl Fn(&Record) -> T) -> Vec<T> {
            of.iter().map(|it| part(&it.record)).collect()
        }
        let fallible = |part: &dyn Fn(&Outcome) -> Result<Option<Vec<u8>>>| {
            outcomes.iter().map(part).collect::<Result<Vec<_>>>()
        };
        let (seqs, queues): (Vec<_>, Vec<_>) =
            each(outcomes, |it| rows::parts(it.id)).into_iter().unzip();
        let errors = fallible(&|it| rows::encoded(it.record.last_error.as_ref()))?;
        let last = fallible(&|it| rows::encoded(it.record.last_attempt.as_ref()))?;
        let previous = fallible(&|it| rows::encoded(it.previous.as_ref()))?;
        let holds: Vec<_> = outcomes.iter().map(|it| it.hold.map(millis)).collect();
        let answered = self
            .query(
                &self.statements.settle,
                &[
                    &millis(now),
                    &self.slot,
                    &ATTEMPTS_KEPT,
                    &seqs,
                    &queues,
                    &each(outcomes, |it| rows::status(it.state_name())),
                    &each(outcomes, |it| millis(rows::due(it))),
                    &each(outcomes, |it| number(it.attempt_count)),
                    &each(outcomes, |it| number(it.budget_attempts)),
                    &each(outcomes, |it| millis(it.budget_since)),
                    &each(outcomes, rows::kind_of),
                    &errors,
                    &last,
                    &previous,
                    &holds,
                ],
            )
            .await?;
        let (mut active, mut idle) = (HashSet::new(), Vec::new());
        for row in &answered {
            match row.get::<_, Option<i64>>("seq") {
                Some(seq) => {
                    active.insert(seq);
                }
                None => idle.push(QueueKey(rows::unbig(row.get("queue")))),
            }
        }
        let others: Vec<_> = active.iter().copied().filter(|seq| !seqs.contains(seq)).collect();
        let others = self.records(&others).await?;
        let mut lanes = self.lanes.lock();
        for outcome in outcomes {
            let record = &mut outcome.record;
            let (seq, queue) = ids::parts(record.id);
            if let Some(lane) = lanes.lanes.get_mut(&queue) {
                lane.settled(seq);
                lane.hold_until = outcome.hold.unwrap_or(lane.hold_until);
            }
            if let State::Pending(Readiness::Scheduled(due)) = record.state {
                if active.contains(&big(seq)) {
                    lanes.activated(queue, record.clone());
                } else {
                    record.state = State::Pending(Readiness::Blocked(due));
                }
            }
        }
        for record in others {
            lanes.activated(ids::parts(record.id).1, record);
        }
        for queue in idle {
            if let Some(lane) = lanes.lanes.get_mut(&queue) {
                lane.set_pending(false);
            }
        }
        drop(lanes);
        self.lanes.wake();
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
