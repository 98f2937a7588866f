//! The operations on an outbox, as values that print and shrink well.
//!
//! Everything is small on purpose: with few jobs, destinations, keys and times, random operations affect each
//! other. All times are multiples of [`UNIT`].

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*};
use seal_dpf_urlcallback::{
    callback::Destination,
    clock::Timestamp,
    outbox::{Attempt, ErrorKind, Failure, Settlement},
};

/// The unit of time.
pub(super) const UNIT: Duration = Duration::from_secs(10);

/// Two of them have a common prefix.
pub(super) const JOBS: [&str; 3] = ["1", "12", "2"];

/// The destinations: two hosts, and none (for a URL that cannot be parsed).
pub(super) fn destinations() -> [Destination; 3] {
    let host = |text| Destination::parse(text).unwrap();
    [host("http://a:80"), host("http://b:80"), Destination::none()]
}

/// Number of destinations that can be called.
pub(super) const HOSTS: usize = 2;

/// One operation.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    /// One write, whose result is awaited.
    Write(Write),
    /// Several writes that are all made before the first result is awaited.
    Burst(Vec<Write>),
    /// A claim, which is kept.
    Claim(Asked),
    /// A claim while these writes, only enqueues and settlements, are being committed.
    ClaimDuring(Vec<Write>, Asked),
    /// One of the kept claims is released.
    Release(usize),
    /// This many units pass.
    Pass(u32),
    /// A destination's breaker opens or closes.
    Report { to: usize, open: bool },
    /// Asks whether events are accepted.
    Ready,
    /// The outbox is closed and reopened; the kept claims are lost.
    Reopen,
    /// A listing from its beginning to its end.
    List(Listing),
}

/// The arguments of a claim.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) to: usize,
    pub(super) limit: usize,
}

/// A step that changes the store. A number selects one of the suitable callbacks, modulo their count.
#[derive(Debug, Clone)]
pub(super) enum Write {
    Enqueue(Vec<Event>),
    /// Settles one of the kept claims.
    Settle(usize, Ending),
    Replay(Vec<usize>),
    Cancel(usize),
    RetryNow(Vec<usize>),
    /// A destination is paused or resumed.
    Pause(usize, bool),
    /// Cancels a callback that was never accepted.
    CancelUnknown(usize),
    /// Callbacks that are at least this many units old.
    Expire(u32),
    Purge(Kept),
}

/// A submitted event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) job: usize,
    pub(super) to: usize,
    pub(super) key: Option<u8>,
    pub(super) refused: bool,
}

/// How an attempt ended; times are units from now, also backwards.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    Delivered,
    Retry { due: i32, hold: Option<i32> },
    Failed { attempted: bool, hold: Option<i32> },
}

/// The retention of ended callbacks: this many units and a half.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) delivered: u32,
    pub(super) failed: u32,
}

/// The filters of a listing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listing {
    /// A state, or a stage after these.
    pub(super) state: Option<usize>,
    pub(super) to: Option<usize>,
    pub(super) job: Option<usize>,
    /// The directory of one of the callbacks.
    pub(super) directory: Option<usize>,
    /// Those with this kind of error.
    pub(super) kind: Option<ErrorKind>,
    /// This many units ago.
    pub(super) since: Option<u32>,
    pub(super) until: Option<u32>,
    pub(super) ended_since: Option<u32>,
    pub(super) ended_until: Option<u32>,
    pub(super) limit: usize,
    pub(super) oldest_first: bool,
    /// It continues after one of the callbacks, which may have been removed.
    pub(super) behind: Option<usize>,
}

/// This many units after `now`, or before it.
pub(super) fn shifted(now: Timestamp, units: i32) -> Timestamp {
    let by = UNIT * units.unsigned_abs();
    if units < 0 { now.before(by) } else { now.after(by) }
}

impl Ending {
    /// The settlement of attempt `number` with this result. Two calls return equal settlements, one for the
    /// outbox and one for its model.
    pub(super) fn settlement(self, number: u32, now: Timestamp) -> Settlement {
        let attempt = |status, error| Attempt {
            number,
            started_at: now,
            duration_ms: u64::from(number),
            status: Some(status),
            error,
            peer: None,
            response_excerpt: None,
        };
        let error = || Failure {
            kind: ErrorKind::Status,
            message: format!("attempt {number} failed"),
            status: Some(500),
        };
        match self {
            Self::Delivered => Settlement::Delivered(attempt(200, None)),
            Self::Retry { due, hold } => Settlement::Retry {
                attempt: attempt(500, Some(error())),
                due: shifted(now, due),
                hold: hold.map(|units| shifted(now, units)),
            },
            Self::Failed { attempted, hold } => Settlement::Failed {
                attempt: attempted.then(|| attempt(500, Some(error()))),
                failure: Failure::new(ErrorKind::Exhausted, "no more attempts"),
                hold: hold.map(|units| shifted(now, units)),
            },
        }
    }
}

/// Maximum length of a hold, in units.
const LONGEST_HOLD: i32 = 6;

/// A number that selects one of any number of items.
fn number() -> impl Strategy<Value = usize> {
    0..24_usize
}

fn event() -> impl Strategy<Value = Event> {
    let to = prop_oneof![20 => 0..HOSTS, 1 => Just(HOSTS)];
    let refused = prop::bool::weighted(0.1);
    (0..JOBS.len(), to, option::weighted(0.3, 0..4_u8), refused)
        .prop_map(|(job, to, key, refused)| Event { job, to, key, refused: refused || to == HOSTS })
}

fn enqueue() -> impl Strategy<Value = Write> {
    vec(event(), 0..5).prop_map(Write::Enqueue)
}

fn ending() -> impl Strategy<Value = Ending> {
    let retry = (-2..5_i32, option::weighted(0.3, -1..=LONGEST_HOLD))
        .prop_map(|(due, hold)| Ending::Retry { due, hold });
    let failed = (any::<bool>(), option::weighted(0.3, -1..=LONGEST_HOLD))
        .prop_map(|(attempted, hold)| Ending::Failed { attempted, hold });
    prop_oneof![
        2 => Just(Ending::Delivered),
        3 => retry,
        3 => failed,
    ]
}

fn settle() -> impl Strategy<Value = Write> {
    (number(), ending()).prop_map(|(claim, ending)| Write::Settle(claim, ending))
}

fn write() -> impl Strategy<Value = Write> {
    // A hold is forgotten with the last callback of its destination that is kept; while failed
    // ones are kept longer than any hold, it never shows.
    let longer = LONGEST_HOLD.unsigned_abs();
    let kept = (0..12_u32, longer..20).prop_map(|(delivered, failed)| Kept { delivered, failed });
    prop_oneof![
        6 => enqueue(),
        8 => settle(),
        4 => vec(number(), 1..4).prop_map(Write::Replay),
        2 => number().prop_map(Write::Cancel),
        2 => vec(number(), 1..4).prop_map(Write::RetryNow),
        2 => (0..HOSTS, any::<bool>()).prop_map(|(to, paused)| Write::Pause(to, paused)),
        1 => number().prop_map(Write::CancelUnknown),
        1 => (0..12_u32).prop_map(Write::Expire),
        1 => kept.prop_map(Write::Purge),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    (0..=HOSTS, 1..5_usize).prop_map(|(to, limit)| Asked { to, limit })
}

fn listing() -> impl Strategy<Value = Listing> {
    let wanted = |below: usize| option::weighted(0.3, 0..below);
    (
        (wanted(6), wanted(HOSTS + 1), wanted(JOBS.len()), option::weighted(0.2, number())),
        [0.3, 0.2, 0.2, 0.2].map(|often| option::weighted(often, 0..12_u32)),
        option::weighted(0.2, prop_oneof![Just(ErrorKind::Status), Just(ErrorKind::Cancelled)]),
        (1..4_usize, any::<bool>(), option::weighted(0.3, number())),
    )
        .prop_map(
            |((state, to, job, directory), times, kind, (limit, oldest_first, behind))| {
                let [since, until, ended_since, ended_until] = times;
                Listing {
                    state,
                    to,
                    job,
                    directory,
                    kind,
                    since,
                    until,
                    ended_since,
                    ended_until,
                    limit,
                    oldest_first,
                    behind,
                }
            },
        )
}

fn operation() -> impl Strategy<Value = Operation> {
    let during = (vec(prop_oneof![enqueue(), settle()], 1..4), asked());
    prop_oneof![
        8 => write().prop_map(Operation::Write),
        4 => vec(write(), 2..6).prop_map(Operation::Burst),
        8 => asked().prop_map(Operation::Claim),
        2 => during.prop_map(|(writes, asked)| Operation::ClaimDuring(writes, asked)),
        3 => number().prop_map(Operation::Release),
        4 => (1..9_u32).prop_map(Operation::Pass),
        1 => (0..HOSTS, any::<bool>()).prop_map(|(to, open)| Operation::Report { to, open }),
        1 => Just(Operation::Ready),
        1 => Just(Operation::Reopen),
        3 => listing().prop_map(Operation::List),
    ]
}

/// The steps of one case.
pub(super) fn operations() -> impl Strategy<Value = Vec<Operation>> {
    vec(operation(), 1..80)
}
