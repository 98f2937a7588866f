//! Recording outcomes.

use std::collections::HashSet;

use super::{
    command::{Settle, answer},
    rows::{self, big, millis, number},
    session::{away, unsure},
    writer::Writer,
};
use crate::{
    clock::Timestamp,
    outbox::{
        Attempt, ErrorKind, Readiness, Record, Settlement, State,
        error::Result,
        horizon::Horizon,
        ids::{self, QueueKey},
        transition,
    },
};

/// Maximum number of attempts of a callback that are kept, in addition to the last one.
const ATTEMPTS_KEPT: i32 = 1000;

/// An outcome, and what is written of it.
struct Outcome {
    record: Record,
    previous: Option<Attempt>,
    hold: Option<Timestamp>,
}

/// What an outcome comes to.
enum Decided {
    Written(Box<Outcome>),
    /// Nothing happened, and the callback is due again.
    Again(Box<Record>),
}

impl Writer {
    /// Records outcomes with one call.
    pub(super) async fn settle(&self, settles: Vec<Settle>) -> Result<()> {
        let now = self.now();
        let (mut outcomes, mut replies) = (Vec::new(), Vec::new());
        for it in settles {
            match self.decide(*it.record, it.settlement, now) {
                Decided::Written(outcome) => {
                    outcomes.push(*outcome);
                    replies.push(it.reply);
                }
                Decided::Again(record) => {
                    let (seq, queue) = ids::parts(record.id);
                    self.lanes.release(queue, seq, now);
                    answer(it.reply, Ok(*record));
                }
            }
        }
        if outcomes.is_empty() {
            return Ok(());
        }
        match self.record(&mut outcomes, now).await {
            Ok(()) => {
                for (outcome, reply) in outcomes.into_iter().zip(replies) {
                    answer(reply, Ok(outcome.record));
                }
                Ok(())
            }
            Err(error) => {
                for (outcome, reply) in outcomes.iter().zip(replies) {
                    let (seq, queue) = ids::parts(outcome.record.id);
                    self.lanes.release(queue, seq, now);
                    answer(reply, Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    fn decide(&self, record: Record, settlement: Settlement, now: Timestamp) -> Decided {
        let queue = ids::parts(record.id).1;
        let began = record.budget_since;
        let (paused, resumed_at, held) = match self.lanes.lock().lanes.get(&queue) {
            Some(lane) => (lane.paused_at.is_some(), lane.resumed_at, lane.hold_until),
            None => (false, Timestamp::default(), Timestamp::default()),
        };
        let record = Record { budget_since: began.max(resumed_at), ..record };
        let settlement = match settlement {
            // The decision was based on the age at the time of the claim; the destination has been
            // paused or resumed since.
            Settlement::Failed { attempt, failure, hold }
                if failure.kind == ErrorKind::Expired
                    && (paused || record.budget_since > began) =>
            {
                let Some(attempt) = attempt else { return Decided::Again(Box::new(record)) };
                Settlement::Retry { attempt, due: now, hold }
            }
            settlement => settlement,
        };
        let previous = record.last_attempt.clone().filter(|_| settlement.attempt().is_some());
        let horizon = Horizon { now, latest: now.after(self.settings.longest_pause) };
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
        Decided::Written(Box::new(Outcome {
            record,
            previous,
            hold: until.map(|it| it.max(known)),
        }))
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
            .session
            .client
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
            .await
            .map_err(unsure)?;
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
        let found = self.session.client.query(&self.statements.records, &[&seqs]).await;
        found.map_err(away)?.iter().map(rows::record).collect()
    }
}
