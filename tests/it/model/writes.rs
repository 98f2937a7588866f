//! The writes of a case: each is made on the outbox and on its model at the same moment, and the
//! results are compared when the outbox has answered.

use futures_util::future::BoxFuture;
use seal_dpf_urlcallback::{
    callback::{Body, CallbackId, JobState},
    outbox::{
        Claim, Enqueued, ErrorKind, Failure, NewCallback, OutboxError, OutboxFuture, Retention,
        Scope, Sequence,
    },
};

use super::{
    case::Case,
    check::Ids,
    operation::{Ending, Event, JOBS, Kept, UNIT, Write, destinations},
    reference::{Number, Stored, Taken},
};

/// Compares the result of a write with the result of the model when the write was made.
pub(super) type Verdict = Box<dyn FnOnce(&mut Ids)>;

impl Case {
    /// Makes the write on the outbox and its model; `None` if there is nothing to write.
    pub(super) fn ask(&mut self, write: Write) -> Option<BoxFuture<'static, Verdict>> {
        Some(match write {
            Write::Enqueue(events) => {
                let batch: Vec<_> = events.into_iter().map(|event| self.callback(event)).collect();
                let answer = self.outbox().enqueue(batch.clone(), Sequence::default());
                let expected = self.model.enqueue(batch);
                judged(answer, |answer, ids| enqueued(answer, expected, ids))
            }
            Write::Settle(place, ending) => {
                let claim = self.take(place)?;
                self.settle(claim, ending)
            }
            Write::Replay(places) => {
                let mut numbers: Vec<_> = places
                    .into_iter()
                    .filter_map(|it| self.number(it, Stored::is_failed))
                    .collect();
                numbers.sort_unstable();
                let ids = numbers.iter().map(|number| self.ids.of(*number)).collect();
                let (answer, expected) = (self.outbox().replay(ids), self.model.replay(&numbers));
                judged(answer, move |replayed, _| assert_eq!(replayed.unwrap(), expected))
            }
            Write::Cancel(place) => {
                let number = self.number(place, Stored::is_pending)?;
                let answer = self.outbox().cancel(vec![self.ids.of(number)]);
                let expected = self.model.cancel(number);
                judged(answer, move |cancelled, _| assert_eq!(cancelled.unwrap(), [expected]))
            }
            Write::RetryNow(places) => {
                let numbers: Vec<_> = places
                    .into_iter()
                    .filter_map(|it| self.number(it, Stored::is_pending))
                    .collect();
                let ids = numbers.iter().map(|number| self.ids.of(*number)).collect();
                let answer = self.outbox().retry_now(ids);
                let expected = self.model.retry_now(&numbers);
                judged(answer, move |due, _| assert_eq!(due.unwrap(), expected))
            }
            Write::Pause(to, paused) => {
                let to = &destinations()[to];
                let answer = self.outbox().pause(to, paused);
                let expected = self.model.pause(to, paused);
                judged(answer, move |changed, _| assert_eq!(changed.unwrap(), expected))
            }
            Write::CancelUnknown(place) => {
                let known = self.ids.of(self.number(place, |_| true)?).as_u128();
                let unknown = CallbackId::from_u128(known ^ 1);
                let answer = self.outbox().cancel(vec![unknown]);
                let expected = self.model.cancel(Number::MAX);
                judged(answer, move |cancelled, _| assert_eq!(cancelled.unwrap(), [expected]))
            }
            Write::Expire(age) => {
                let cutoff = self.model.now.before(UNIT * age);
                let failure = Failure::new(ErrorKind::Expired, "too old");
                let answer = self.outbox().expire(Scope::All, cutoff, failure.clone());
                let expected = self.model.expire(cutoff, &failure);
                judged(answer, move |expired, ids| {
                    let mut expired = expired.unwrap();
                    expired.sort_by_key(|record| record.id);
                    assert_eq!(expired.len(), expected.len(), "of {expected:#?}");
                    for (stored, record) in expected.iter().zip(&expired) {
                        ids.agree(stored, record);
                    }
                })
            }
            Write::Purge(kept) => self.purge(kept),
        })
    }

    pub(super) fn settle(&mut self, claim: Claim, ending: Ending) -> BoxFuture<'static, Verdict> {
        let (number, now) = (self.ids.number(claim.record.id), self.model.now);
        let attempt = claim.record.next_attempt();
        let answer = self.outbox().settle(claim, ending.settlement(attempt, now));
        let expected = self.model.settle(number, ending.settlement(attempt, now));
        judged(answer, move |record, ids| ids.agree(&expected, &record.unwrap()))
    }

    fn purge(&mut self, kept: Kept) -> BoxFuture<'static, Verdict> {
        // Not exact: callbacks that ended at this moment may be kept or removed.
        let units = |units: u32| UNIT * units + UNIT / 2;
        let retention = Retention { delivered: units(kept.delivered), failed: units(kept.failed) };
        let (answer, expected) = (
            self.outbox().purge(retention.over(|age| self.model.now.before(age))),
            self.model.purge(retention),
        );
        judged(answer, move |purged, _| assert_eq!(purged.unwrap(), expected))
    }

    fn callback(&mut self, event: Event) -> NewCallback {
        self.events += 1;
        NewCallback {
            event_id: event.key.map(|key| format!("key {key}")),
            body: Body {
                job_id: JOBS[event.job].to_owned(),
                job_id_fs: self.events.to_string(),
                job_state: JobState::Sending,
                exit_status: None,
                error_reason: None,
                dpf_tracker_url: None,
            },
            url: format!("http://host/{}", self.events).into(),
            destination: destinations()[event.to].clone(),
            trace: None,
            refusal: event.refused.then(|| Failure::new(ErrorKind::InvalidUrl, "it is no URL")),
        }
    }
}

fn judged<T: 'static>(
    answer: OutboxFuture<T>,
    verdict: impl FnOnce(Result<T, OutboxError>, &mut Ids) + Send + 'static,
) -> BoxFuture<'static, Verdict> {
    Box::pin(async move {
        let answer = answer.await;
        Box::new(move |ids: &mut Ids| verdict(answer, ids)) as Verdict
    })
}

fn enqueued(
    answer: Result<Vec<Enqueued>, OutboxError>,
    expected: Option<Vec<Taken>>,
    ids: &mut Ids,
) {
    let Some(expected) = expected else {
        assert!(matches!(answer, Err(OutboxError::Full { .. })), "{answer:?}");
        return;
    };
    let answer = answer.unwrap();
    assert_eq!(answer.len(), expected.len());
    for (answer, expected) in answer.into_iter().zip(expected) {
        match (answer, expected) {
            (Enqueued::Stored(id), Taken::Stored(number)) => ids.note(number, id),
            (Enqueued::Duplicate(id), Taken::Duplicate(number)) => assert_eq!(id, ids.of(number)),
            (Enqueued::NotKept, Taken::NotKept) => {}
            other => panic!("{other:?}"),
        }
    }
}
