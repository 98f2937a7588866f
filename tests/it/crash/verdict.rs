//! The basis of the verdict on a run: the answers that submitters and operators got, the receivers' own
//! record, and the state of the service after everything has ended.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    time::Duration,
};

use serde_json::Value;

use super::{
    MAX_ATTEMPTS,
    history::{Acknowledged, Action, Call, Event, History, Said, Seen, Tick},
    order::{self, Concerning},
};

/// How long after a receiver's answer the service has certainly received it, even on a busy machine. If a
/// later write was acknowledged, the outcome is recorded, because writes take effect in order.
pub(super) const HEARD: Duration = Duration::from_secs(3);

/// A callback with everything recorded about it.
pub(super) struct Known<'a> {
    pub(super) id: &'a str,
    pub(super) job: &'a str,
    pub(super) stored: &'a Value,
    /// In the order of the processes, then of arrival.
    pub(super) seen: Vec<&'a Seen>,
}

impl Known<'_> {
    pub(super) fn attempts(&self) -> u64 {
        self.stored["attemptCount"].as_u64().unwrap()
    }

    /// Whether it can never be sent, so that no receiver saw it end.
    pub(super) fn is_unsendable(&self) -> bool {
        self.stored["url"].as_str().unwrap().starts_with("ftp:")
    }

    pub(super) fn reason(&self) -> &str {
        self.stored["lastError"]["kind"].as_str().unwrap_or_default()
    }
}

/// The result of a run.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) accepted: usize,
    pub(super) delivered: usize,
    pub(super) failed: usize,
    pub(super) repeated: usize,
    pub(super) unanswered: usize,
    pub(super) asked_again: usize,
    pub(super) cancelled: usize,
    pub(super) replayed: u64,
    pub(super) lost: Vec<String>,
    pub(super) out_of_order: Vec<String>,
    pub(super) faults: Vec<String>,
}

impl Verdict {
    pub(super) fn is_good(&self) -> bool {
        self.lost.is_empty() && self.out_of_order.is_empty() && self.faults.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "accepted {}, delivered {}, failed {}, lost {}, repeated {}, order violations {}, \
             other faults {} (no answer {}, duplicates {}, cancelled {}, replayed {})",
            self.accepted,
            self.delivered,
            self.failed,
            self.lost.len(),
            self.repeated,
            self.out_of_order.len(),
            self.faults.len(),
            self.unanswered,
            self.asked_again,
            self.cancelled,
            self.replayed
        )?;
        for (what, all) in
            [("lost", &self.lost), ("order", &self.out_of_order), ("fault", &self.faults)]
        {
            for one in all.iter().take(10) {
                write!(f, "\n{what}: {one}")?;
            }
        }
        Ok(())
    }
}

/// Judges. `detail` gives a callback with its attempts.
pub(super) fn judge(
    history: &History,
    listed: &[Value],
    detail: &dyn Fn(&str) -> Value,
) -> Verdict {
    let events = history.events.lock().unwrap();
    let seen = history.seen.lock().unwrap();
    let calls = history.calls.lock().unwrap();
    let acknowledged = history.acknowledged.lock().unwrap();
    let mut verdict =
        Verdict { faults: history.faults.lock().unwrap().clone(), ..Verdict::default() };
    for one in events.iter().flat_map(|event| &event.handed_in) {
        verdict.unanswered += usize::from(one.said == Said::Nothing);
        verdict.asked_again += usize::from(matches!(one.said, Said::Duplicate(_)));
    }
    verdict.replayed = calls.iter().map(|call| call.replayed).sum();
    let cancels = calls.iter().filter(|call| matches!(call.action, Action::Cancel(_)));
    verdict.cancelled = cancels.filter(|call| call.status == 200).count();
    let concerning = Concerning::of(&calls);
    let mut known = BTreeMap::new();
    for stored in listed {
        let id = stored["id"].as_str().unwrap();
        let job = stored["jobId"].as_str().unwrap();
        known.insert(id, Known { id, job, stored, seen: Vec::new() });
        match stored["state"].as_str() {
            Some("delivered") => verdict.delivered += 1,
            Some("failed") => verdict.failed += 1,
            _ => verdict.lost.push(format!("it is still pending: {stored}")),
        }
    }
    for one in seen.iter() {
        match known.get_mut(one.id.as_str()) {
            Some(known) => known.seen.push(one),
            None => verdict.faults.push(format!("sent, and yet not stored: {one:?}")),
        }
    }
    for one in known.values_mut() {
        one.seen.sort_by_key(|it| (it.process, it.arrived));
    }
    let faults = &mut verdict.faults;
    let expected = by_key(&events, faults);
    for one in known.values() {
        let key = one.stored["url"].as_str().unwrap().rsplit('/').next().unwrap();
        if expected.get(key).is_none_or(|event| event.id().is_some_and(|id| id != one.id)) {
            faults.push(format!("it was not submitted, or it is stored twice: {}", one.stored));
        }
        faults.extend(
            one.seen
                .iter()
                .filter(|it| it.key != key || it.job != one.job)
                .map(|it| format!("sent is not what is stored: {it:?}, stored {}", one.stored)),
        );
        attempts_grow(one, faults);
        let calls = concerning.one(one);
        verdict.repeated += repeats(one, &calls, &acknowledged, detail, faults);
        cancelled_stays(one, &calls, faults);
    }
    for event in events.iter() {
        let Some(id) = event.id() else { continue };
        verdict.accepted += usize::from(!matches!(event.handed_in[0].said, Said::Failed(_)));
        let lost = match known.get(id) {
            None => Some("it is not stored any more".to_owned()),
            Some(it) if it.stored["state"] == "delivered" => it
                .seen
                .iter()
                .all(|seen| seen.took().is_none())
                .then(|| format!("no receiver took it, and yet: {}", it.stored)),
            Some(it) if it.stored["state"] == "failed" && !has_failed(it, &concerning.one(it)) => {
                Some(format!("it failed without a reason: {}", it.stored))
            }
            Some(_) => None,
        };
        verdict.lost.extend(lost.map(|why| format!("{why}: {event:?}")));
    }
    order::ids_follow_submission(&events, &mut verdict.out_of_order);
    order::jobs_keep_their_order(&known, &concerning, detail, &mut verdict.out_of_order);
    verdict
}

/// Whether the recorded reason of the failure is justified.
fn has_failed(known: &Known<'_>, calls: &[&Call]) -> bool {
    match known.reason() {
        "status" => known.seen.iter().any(|it| it.status == 422),
        "exhausted" => known.attempts() >= MAX_ATTEMPTS,
        "cancelled" => calls.iter().any(|call| call.may_cancel(known.id)),
        "invalid_url" => known.is_unsendable(),
        _ => false,
    }
}

/// The events by their keys, after a check of the submitters' answers.
fn by_key<'a>(events: &'a [Event], faults: &mut Vec<String>) -> HashMap<&'a str, &'a Event> {
    for event in events {
        let ids: HashSet<_> = event.handed_in.iter().filter_map(|it| it.said.id()).collect();
        let mut may_be_stored = false;
        let mut told = false;
        let mut wrong = ids.len() > 1;
        for one in &event.handed_in {
            wrong |= match &one.said {
                Said::Wrong(_) => true,
                Said::Accepted(_) | Said::Failed(_) => told,
                Said::Duplicate(_) => !may_be_stored,
                Said::Nothing => false,
            };
            may_be_stored = true;
            told |= one.said.id().is_some();
        }
        if wrong {
            faults.push(format!("these answers do not fit together: {event:?}"));
        }
    }
    events.iter().map(|event| (event.key.as_str(), event)).collect()
}

/// The numbers of attempts increase. An attempt is repeated after a kill, and after a receiver has
/// closed a kept-alive connection without a response: then the same attempt is sent again.
fn attempts_grow(known: &Known<'_>, faults: &mut Vec<String>) {
    for pair in known.seen.windows(2) {
        let again = pair[0].process != pair[1].process || pair[0].answered.is_none();
        let least = pair[0].attempt + u64::from(!again);
        if pair[1].attempt < least {
            faults.push(format!("attempts went backwards: {:#?}, stored {}", pair, known.stored));
        }
    }
    // One attempt may have been interrupted by a kill, and its callback cancelled.
    let most = known.seen.iter().map(|it| it.attempt).max().unwrap_or(0);
    if most > known.attempts() + u64::from(known.stored["state"] == "failed") {
        faults.push(format!("attempt {most} is not recorded: {}", known.stored));
    }
}

/// A callback that a receiver has ended is repeated only if a kill happened between the answer and its
/// record. Returns how often a success was repeated.
fn repeats(
    known: &Known<'_>,
    calls: &[&Call],
    acknowledged: &[Acknowledged],
    detail: &dyn Fn(&str) -> Value,
    faults: &mut Vec<String>,
) -> usize {
    let mut repeated = 0;
    let mut ended: Option<&Seen> = None;
    for one in &known.seen {
        if let Some(before) = ended.take() {
            let replayed = before.took().is_none()
                && calls
                    .iter()
                    .any(|call| call.may_replay(known.id, known.job) && call.sent < one.arrived);
            if !replayed {
                repeated += usize::from(before.took().is_some());
                if let Some(why) = unexplained(before, one, acknowledged, detail) {
                    faults.push(format!("{why}: {before:?}, again {one:?}, {}", known.stored));
                }
            }
        }
        ended = one.ended().map(|_| *one);
    }
    repeated
}

fn unexplained(
    before: &Seen,
    again: &Seen,
    acknowledged: &[Acknowledged],
    detail: &dyn Fn(&str) -> Value,
) -> Option<&'static str> {
    let recorded = || {
        let place = usize::try_from(before.attempt).unwrap() - 1;
        detail(&before.id)["attempts"][place]["error"]["kind"].as_str().map(str::to_owned)
    };
    if before.process == again.process {
        // The response may have arrived after the service stopped waiting.
        let late = recorded().as_deref() == Some("timeout");
        return (!late).then_some("it ended, and came again from the same process");
    }
    let heard = before.answered.unwrap().1 + HEARD;
    if acknowledged.iter().any(|it| it.process == before.process && it.began > heard) {
        return Some("a later write was acknowledged before the kill, and yet it came again");
    }
    // In between, the same attempt was repeated without reaching a receiver.
    let made_again = again.attempt > before.attempt && recorded().is_some();
    (again.attempt != before.attempt && !made_again).then_some("it ended and was recorded")
}

/// A cancelled callback is no longer sent, unless it was replayed.
fn cancelled_stays(known: &Known<'_>, calls: &[&Call], faults: &mut Vec<String>) {
    for cancel in calls.iter().filter(|it| it.may_cancel(known.id) && it.status == 200) {
        let answered = cancel.answered.unwrap();
        let replayed_before = |tick: Tick| {
            calls.iter().any(|call| {
                call.may_replay(known.id, known.job)
                    && call.answered.is_none_or(|it| it > cancel.sent)
                    && call.sent < tick
            })
        };
        for one in known.seen.iter().filter(|it| it.arrived > answered) {
            if !replayed_before(one.arrived) {
                faults.push(format!("cancelled, and yet sent: {cancel:?}, {one:?}"));
            }
        }
        if !replayed_before(Tick::MAX) && known.reason() != "cancelled" {
            faults.push(format!("cancelled, and yet not: {cancel:?}, {}", known.stored));
        }
    }
}
