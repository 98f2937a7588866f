//! The state of a destination, from the store and from the attempts of this process.
//!
//! The breaker and the latest attempts are not stored, so it is unknown after a start since when a
//! destination has been down. The store has the oldest pending callback and its attempts, which are shown as
//! well.

use super::{
    context::{Page, Refusal},
    state::Shared,
    words::Words,
};
use crate::{
    api::destination_view::{DestinationState, DestinationView},
    callback::Destination,
    clock::Timestamp,
    outbox::{Attempt, Criteria, DestinationSummary, Outbox, OutboxError, Query, StateName},
    recent::{self, Attempts, Reason},
};

/// A word for a state, and the class of its colour.
pub(super) struct Badge {
    pub(super) class: &'static str,
    pub(super) word: &'static str,
}

/// Since when a state lasts.
pub(super) struct Since {
    /// A description of the state, if it is not obvious.
    pub(super) what: &'static str,
    pub(super) at: Timestamp,
    /// It may have begun before the start of the service.
    pub(super) or_earlier: bool,
}

/// A destination as the page shows it.
pub(super) struct Condition {
    pub(super) it: DestinationView,
    pub(super) badges: Vec<Badge>,
    pub(super) since: Vec<Since>,
    /// Since when no attempt has worked, as far back as attempts are remembered.
    pub(super) none_since: Option<Timestamp>,
    /// What happens next: the next probe, or the end of a hold.
    pub(super) next: Option<(&'static str, Option<Timestamp>)>,
    /// Why the last attempt failed, if the destination does not work.
    pub(super) error: Option<Reason>,
}

impl Condition {
    /// Whether no problem is known.
    pub(super) fn is_well(&self) -> bool {
        self.it.state == DestinationState::Ok && self.error.is_none()
    }

    /// The state of a destination. If this process does not know, the store is queried for the oldest pending
    /// callback.
    pub(super) async fn of(
        shared: &Shared,
        page: &Page,
        summary: DestinationSummary,
    ) -> Result<Self, Refusal> {
        let known = recent::attempts_of(&summary.destination);
        let mut oldest = None;
        // Everything since the latest delivery is known.
        if summary.pending > 0 && known.as_ref().is_none_or(|it| it.delivered_at.is_none()) {
            let outbox = &*shared.api.outbox;
            // What was accepted since the start is known, too.
            let before = known.as_ref().map_or(Timestamp::MAX, |_| page.started_at);
            let found = oldest_attempts(outbox, &summary.destination, before).await;
            oldest = found.map_err(|error| page.failed(&error))?;
        }
        Ok(Self::new(page, summary, known, oldest))
    }

    fn new(
        page: &Page,
        summary: DestinationSummary,
        known: Option<Attempts>,
        oldest: Option<(Attempt, Attempt)>,
    ) -> Self {
        let words = page.words;
        let it = DestinationView::from(summary);
        let failing = known.as_ref().is_some_and(Attempts::are_failing);
        // Before the first attempt since the start, only the store has information.
        let was_failing = known.is_none() && oldest.is_some();
        let unwell = it.open || failing || was_failing;
        let mut since = Vec::new();
        let has_worked = known.as_ref().is_some_and(|it| it.delivered_at.is_some());
        let began = oldest.as_ref().map(|(first, _)| first.started_at);
        let or_earlier = !has_worked && began.is_some_and(|at| at < page.started_at);
        let both = it.paused_at.is_some() && unwell;
        let what = |word| if both { word } else { "" };
        since.extend(it.paused_at.map(|at| Since {
            what: what(words.state_paused),
            at,
            or_earlier: false,
        }));
        let failing_since = known.as_ref().filter(|_| failing).and_then(|it| it.failing_since);
        let (down, word) = match it.open_since {
            Some(at) => (Some(at), words.state_open),
            None => (failing_since, words.state_failing),
        };
        since.extend(down.map(|at| Since { what: what(word), at, or_earlier }));
        // The store shows that it began earlier.
        since.extend(began.filter(|_| unwell && (or_earlier || down.is_none())).map(|at| Since {
            what: words.oldest_fails,
            at,
            or_earlier: false,
        }));
        let remembered = recent::remembered_since().unwrap_or(page.started_at);
        let is_vague = unwell && known.is_some() && !has_worked && !or_earlier;
        let error = known.and_then(|it| it.error).or_else(|| stored_reason(oldest?.1));
        Self {
            badges: badges(&it, failing || was_failing, words),
            since,
            none_since: is_vague.then_some(remembered),
            next: next(&it, page.now, words),
            error: error.filter(|_| unwell),
            it,
        }
    }
}

fn stored_reason(attempt: Attempt) -> Option<Reason> {
    let error = attempt.error?;
    let (kind, status) = (error.kind.as_str(), error.status);
    Some(Reason { kind, status, message: error.message, of_destination: true })
}

/// The first attempt and the last one of the oldest pending callback, if that was accepted before `before`, and
/// the last one failed.
async fn oldest_attempts(
    outbox: &dyn Outbox,
    destination: &Destination,
    before: Timestamp,
) -> Result<Option<(Attempt, Attempt)>, OutboxError> {
    let query = Query {
        state: Some(StateName::Pending),
        criteria: Criteria { destination: Some(destination.clone()), ..Criteria::default() },
        limit: 1,
        oldest_first: true,
        ..Query::default()
    };
    let found = outbox.list(query).await?.callbacks;
    let tried = found.first().map(|it| &it.record);
    let tried = tried.filter(|it| it.attempt_count > 0 && it.created_at < before);
    let Some(tried) = tried else { return Ok(None) };
    let Some(detail) = outbox.get(tried.id).await? else { return Ok(None) };
    let mut attempts = detail.attempts.into_iter();
    let Some(first) = attempts.next() else { return Ok(None) };
    let last = attempts.next_back().unwrap_or_else(|| first.clone());
    Ok(last.error.is_some().then_some((first, last)))
}

fn badges(it: &DestinationView, failing: bool, words: &Words) -> Vec<Badge> {
    let all = [
        (it.paused_at.is_some(), Badge { class: "paused", word: words.state_paused }),
        (it.open, Badge { class: "bad", word: words.state_open }),
        (!it.open && failing, Badge { class: "bad", word: words.state_failing }),
        (it.hold_until.is_some(), Badge { class: "pending", word: words.state_held }),
    ];
    let mut badges: Vec<_> =
        all.into_iter().filter(|(is, _)| *is).map(|(_, badge)| badge).collect();
    if badges.is_empty() {
        badges.push(Badge { class: "good", word: words.state_ok });
    }
    badges
}

/// What happens next. A probe is an attempt of a due callback, so its time is shown only if one is due.
fn next(
    it: &DestinationView,
    now: Timestamp,
    words: &Words,
) -> Option<(&'static str, Option<Timestamp>)> {
    match (it.next_probe_at, it.hold_until) {
        _ if it.paused_at.is_some() => None,
        (Some(_), _) if it.in_flight > 0 => Some((words.probe_in_flight, None)),
        (Some(at), _) if at > now && it.due > 0 => Some((words.next_probe, Some(at))),
        (Some(at), _) if at > now => Some((words.next_probe_not_before, Some(at))),
        (Some(_), _) if it.due > 0 => Some((words.next_probe_now, None)),
        (Some(_), _) => Some((words.next_probe_when_due, None)),
        (None, hold) => hold.map(|at| (words.held_until, Some(at))),
    }
}
