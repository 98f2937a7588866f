//! The order of a job's callbacks, as far as it is visible from outside.
//!
//! An id contains the position in the order of acceptance. When a receiver gets a request, all earlier
//! callbacks of the job must have ended: a receiver accepted or refused them, an operator may have cancelled
//! them, or their attempts were exhausted. None of them may be sent again later, unless it may have been
//! replayed. While a replayed callback is pending, only one attempt of one later callback may arrive: the one
//! that was in progress.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use serde_json::Value;

use super::{
    MAX_ATTEMPTS,
    history::{Action, Call, Event, Said, Seen, Tick},
    verdict::Known,
};
use seal_dpf_urlcallback::clock::Timestamp;

/// An event that was acknowledged before another one of the job was submitted has the smaller id; so has the
/// earlier line of a batch.
pub(super) fn ids_follow_submission(events: &[Event], faults: &mut Vec<String>) {
    let mut jobs: HashMap<&str, Vec<&Event>> = HashMap::new();
    for event in events {
        jobs.entry(&event.job).or_default().push(event);
    }
    let first_known = |event: &Event| {
        let known = event.handed_in.iter().filter(|it| it.said.id().is_some());
        known.map(|it| it.answered).min()
    };
    for event in jobs.values().flatten() {
        let (Some(id), Some(answered)) = (event.id(), first_known(event)) else { continue };
        for other in &jobs[event.job.as_str()] {
            let Some(other_id) = other.id() else { continue };
            let first = &other.handed_in[0];
            let later = answered < first.sent || same_batch(event, other);
            if later && other_id <= id {
                faults.push(format!("submitted later, and accepted earlier: {event:?} {other:?}"));
            }
        }
    }
}

fn same_batch(earlier: &Event, later: &Event) -> bool {
    let (Some(a), Some(b)) = (earlier.handed_in.first(), later.handed_in.first()) else {
        return false;
    };
    let accepted = |said: &Said| matches!(said, Said::Accepted(_) | Said::Failed(_));
    a.request == b.request && a.sent < b.sent && accepted(&a.said) && accepted(&b.said)
}

/// The calls, indexed by the id or job that they name. A run has too many to search all of them for each pair
/// of callbacks.
pub(super) struct Concerning<'a> {
    calls: &'a [Call],
    named: HashMap<&'a str, Vec<usize>>,
    everything: Vec<usize>,
}

impl<'a> Concerning<'a> {
    pub(super) fn of(calls: &'a [Call]) -> Self {
        let mut named: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut everything = Vec::new();
        for (place, call) in calls.iter().enumerate() {
            match &call.action {
                Action::Cancel(name) | Action::ReplayJob(name) => {
                    named.entry(name).or_default().push(place);
                }
                Action::ReplayIds(ids) => {
                    ids.iter().for_each(|id| named.entry(id).or_default().push(place));
                }
                Action::ReplayAll => everything.push(place),
            }
        }
        Self { calls, named, everything }
    }

    /// The calls that may concern one callback. Most callbacks were sent once, and no call names them.
    pub(super) fn one(&self, one: &Known<'_>) -> Vec<&'a Call> {
        let matter = one.seen.len() > 1 || self.named.contains_key(one.id);
        if matter { self.line(one.job, &[one]) } else { Vec::new() }
    }

    /// The calls that may concern a job, in order.
    pub(super) fn line(&self, job: &str, line: &[&Known<'_>]) -> Vec<&'a Call> {
        let names = line.iter().map(|it| it.id).chain([job]);
        let places = names.filter_map(|name| self.named.get(name)).chain([&self.everything]);
        let places: BTreeSet<usize> = places.flatten().copied().collect();
        places.into_iter().map(|place| &self.calls[place]).collect()
    }
}

/// Checks every job.
pub(super) fn jobs_keep_their_order(
    known: &BTreeMap<&str, Known<'_>>,
    calls: &Concerning<'_>,
    detail: &dyn Fn(&str) -> Value,
    faults: &mut Vec<String>,
) {
    let mut jobs: BTreeMap<&str, Vec<&Known<'_>>> = BTreeMap::new();
    for one in known.values() {
        jobs.entry(one.job).or_default().push(one);
    }
    for (job, line) in &jobs {
        let calls = calls.line(job, line);
        let calls = calls.as_slice();
        let mut found = Vec::new();
        for (place, later) in line.iter().enumerate() {
            for earlier in &line[..place] {
                ended_before(earlier, later, calls, detail, &mut found);
                never_goes_back(earlier, later, calls, &mut found);
            }
        }
        for (place, one) in line.iter().enumerate() {
            replayed_goes_first(one, &line[place + 1..], calls, detail, &mut found);
        }
        if !found.is_empty() {
            let mut seen: Vec<_> = line.iter().flat_map(|it| &it.seen).collect();
            seen.sort_by_key(|it| (it.process, it.arrived));
            let record: Vec<_> = seen.iter().map(|it| format!("\n    {it:?}")).collect();
            let stored: Vec<_> = line.iter().map(|it| format!("\n    {}", it.stored)).collect();
            let asked: Vec<_> = calls
                .iter()
                .filter(|call| {
                    let concerns =
                        |it: &&Known<'_>| call.may_replay(it.id, it.job) || call.may_cancel(it.id);
                    line.iter().any(concerns)
                })
                .map(|call| format!("\n    {call:?}"))
                .collect();
            let first = found.swap_remove(0);
            let (record, stored, asked) = (record.concat(), stored.concat(), asked.concat());
            faults
                .push(format!("{first}\n  received:{record}\n  stored:{stored}\n  asked:{asked}"));
        }
    }
}

fn ended_before(
    earlier: &Known<'_>,
    later: &Known<'_>,
    calls: &[&Call],
    detail: &dyn Fn(&str) -> Value,
    found: &mut Vec<String>,
) {
    if later.seen.is_empty() || earlier.is_unsendable() {
        return;
    }
    let answered = earlier.seen.iter().filter_map(|it| it.ended()).min();
    let cancelled = calls.iter().filter(|it| it.may_cancel(earlier.id)).map(|it| it.sent).min();
    let end = answered.into_iter().chain(cancelled).min().unwrap_or(Tick::MAX);
    let Some(early) = later.seen.iter().find(|it| it.arrived < end) else { return };
    let used_up = (earlier.attempts() >= MAX_ATTEMPTS)
        .then(|| last_of_budget(&detail(earlier.id), Duration::ZERO));
    if used_up.flatten().is_none_or(|at| at > early.wall) {
        let (earlier, later) = (earlier.id, later.id);
        found.push(format!("{later} was sent before {earlier} had ended"));
    }
}

/// The beginning of the attempt that exhausted the budget that began at `since`. The service reports whole
/// milliseconds.
fn last_of_budget(callback: &Value, since: Duration) -> Option<Duration> {
    let within = Duration::from_nanos(u64::from(since.subsec_nanos() % 1_000_000));
    let since = since.saturating_sub(within);
    let begin = |attempt: &Value| {
        let at: Timestamp = attempt["startedAt"].as_str().unwrap().parse().unwrap();
        at.since(Timestamp::default())
    };
    let attempts = callback["attempts"].as_array().unwrap().iter().map(begin);
    attempts.filter(|at| *at >= since).nth(usize::try_from(MAX_ATTEMPTS).unwrap() - 1)
}

fn never_goes_back(
    earlier: &Known<'_>,
    later: &Known<'_>,
    calls: &[&Call],
    found: &mut Vec<String>,
) {
    let Some(first) = later.seen.first() else { return };
    let behind = |it: &&&Seen| (it.process, it.arrived) > (first.process, first.arrived);
    for one in earlier.seen.iter().filter(behind) {
        let mut replays = calls.iter().filter(|it| it.may_replay(earlier.id, earlier.job));
        if !replays.any(|call| call.sent < one.arrived) {
            let (earlier, later) = (earlier.id, later.id);
            found.push(format!("{earlier} was sent again after {later}: {one:?}"));
        }
    }
}

fn replayed_goes_first(
    one: &Known<'_>,
    behind: &[&Known<'_>],
    calls: &[&Call],
    detail: &dyn Fn(&str) -> Value,
    found: &mut Vec<String>,
) {
    // The end time of a callback that can never be sent is not visible from outside.
    if one.is_unsendable() || behind.iter().all(|it| it.seen.is_empty()) {
        return;
    }
    for call in calls {
        let alone = matches!(&call.action, Action::ReplayIds(ids) if *ids == [one.id]);
        let (true, 1, Some(begin)) = (alone, call.replayed, call.answered) else { continue };
        let answered = one.seen.iter().filter_map(|it| it.ended());
        let cancelled = calls.iter().filter(|it| {
            it.may_cancel(one.id) && it.answered.is_none_or(|answered| answered > call.sent)
        });
        let end = answered
            .filter(|tick| *tick > call.sent)
            .chain(cancelled.map(|it| it.sent))
            .min()
            .unwrap_or(Tick::MAX);
        let used_up = (one.attempts() >= MAX_ATTEMPTS)
            .then(|| last_of_budget(&detail(one.id), call.wall))
            .flatten()
            .unwrap_or(Duration::MAX);
        let under_way: HashSet<_> = behind
            .iter()
            .flat_map(|it| &it.seen)
            .filter(|it| (begin..end).contains(&it.arrived) && it.wall < used_up)
            .map(|it| (&it.id, it.attempt))
            .collect();
        if under_way.len() > 1 {
            found.push(format!("{} was replayed, and later ones sent before it: {call:?}", one.id));
        }
    }
}

#[test]
fn an_attempt_in_the_millisecond_of_a_replay_counts_for_it() {
    let begun = Timestamp::from_millis(1_700_000_000_159);
    let attempts: Vec<_> =
        (0..MAX_ATTEMPTS).map(|_| serde_json::json!({ "startedAt": begun.to_string() })).collect();
    let callback = serde_json::json!({ "attempts": attempts });
    let begun = begun.since(Timestamp::default());
    let last = |since| last_of_budget(&callback, since);
    assert_eq!(last(begun + Duration::from_micros(331)), Some(begun));
    assert_eq!(last(begun + Duration::from_millis(1)), None);
}
