//! Notices: the operator's receiver is notified when callbacks fail for good (`notify.url`).
//!
//! Failures of one destination are counted in a window, which begins with the first of them. The store
//! records the window in the commit of the failures. When the window is over, it becomes one notice. A notice
//! is stored as a callback. Its destination is `notify://<host>:<port>`, which no producer can give, so
//! notices have their own queue, retries and breaker; its URL contains the content. It is sent to the address
//! that is in the settings at the time of the attempt.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};

use super::{
    ids,
    record::{ErrorKind, Failure, Record, StateName},
    writes::NewCallback,
};
use crate::{
    callback::{Body, CallbackId, Destination, JobState, SecretUrl},
    clock::Timestamp,
};

/// The key of the URL's query whose value is the content.
const NOTICE: &str = "notice";

/// The beginning of the destinations of notices.
const LANE: &str = "notify://";

/// Maximum length of a destination in the job of its notices, in bytes.
const JOB_BYTES: usize = 200;

/// Which failures are reported, and where (`notify.url`, `notify.window`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notices {
    lane: Destination,
    window: Duration,
}

/// The failures of one destination in one window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FailureWindow {
    pub(super) destination: Destination,
    /// When the first one failed.
    pub(super) since: Timestamp,
    /// The callbacks that were accepted first and last.
    pub(super) first: CallbackId,
    pub(super) last: CallbackId,
    /// How many failed, by kind of error.
    pub(super) kinds: Vec<(ErrorKind, u64)>,
    /// Why the latest one failed.
    pub(super) error: Failure,
}

/// The content of a notice (docs/receiving-callbacks.md).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notice<'a> {
    r#type: &'static str,
    destination: &'a str,
    window_start: Timestamp,
    window_end: Timestamp,
    failed: u64,
    first_id: String,
    last_id: String,
    error_kinds: BTreeMap<&'static str, u64>,
    error: &'a Failure,
}

impl Notices {
    /// Notices to the host of `url`, with windows of this length.
    pub fn new(url: &Url, window: Duration) -> Self {
        let to = Destination::of(url);
        let place = to.as_str().split_once("://").map_or("", |(_, place)| place);
        Self { lane: Destination::from_stored(&format!("{LANE}{place}")), window }
    }

    /// Length of a window.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Whether a window is over. A window that begins in the future was created while the clock was ahead.
    pub(super) fn is_over(&self, window: &FailureWindow, now: Timestamp) -> bool {
        window.since > now || now.since(window.since) >= self.window
    }

    /// The notice about a window.
    pub(super) fn about(&self, window: &FailureWindow) -> NewCallback {
        let FailureWindow { destination, since, first, last, kinds, error } = window;
        let notice = Notice {
            r#type: "callbacks.failed",
            destination: destination.as_str(),
            window_start: *since,
            window_end: since.after(self.window),
            failed: kinds.iter().map(|(_, count)| count).sum(),
            first_id: first.to_string(),
            last_id: last.to_string(),
            error_kinds: kinds.iter().map(|(kind, count)| (kind.as_str(), *count)).collect(),
            error,
        };
        let query = form_urlencoded::Serializer::new(String::new())
            // A struct of texts and numbers cannot fail to serialize.
            .append_pair(NOTICE, &serde_json::to_string(&notice).unwrap_or_default())
            .finish();
        let mut job = destination.to_string();
        job.truncate(job.floor_char_boundary(JOB_BYTES));
        NewCallback {
            // No two windows begin with the same callback at the same time.
            event_id: Some(format!("notice:{}:{first}", since.as_millis())),
            body: Body {
                job_id: format!("notice:{job}"),
                job_id_fs: String::new(),
                job_state: JobState::Error,
                exit_status: None,
                error_reason: None,
                dpf_tracker_url: None,
            },
            url: SecretUrl::from(format!("{}/?{query}", self.lane)),
            destination: self.lane.clone(),
            trace: None,
            refusal: None,
        }
    }
}

/// Whether a failure is reported. Failed notices and cancelled callbacks are not.
fn is_told(record: &Record) -> Option<&Failure> {
    let error = record.last_error.as_ref()?;
    let is_failed = record.state_name() == StateName::Failed;
    let is_told = !record.destination.is_notice() && error.kind != ErrorKind::Cancelled;
    (is_failed && is_told).then_some(error)
}

impl FailureWindow {
    /// The window that begins with a failed callback; `None` if its failure is not reported.
    pub(super) fn of(record: &Record, now: Timestamp) -> Option<Self> {
        let error = is_told(record)?;
        Some(Self {
            destination: record.destination.clone(),
            since: now,
            first: record.id,
            last: record.id,
            kinds: vec![(error.kind, 1)],
            error: error.clone(),
        })
    }

    /// Combines this window with a later one.
    pub(super) fn with(mut self, later: Self) -> Self {
        let seq = |id: CallbackId| ids::parts(id).0;
        self.first = std::cmp::min_by_key(self.first, later.first, |id| seq(*id));
        self.last = std::cmp::max_by_key(self.last, later.last, |id| seq(*id));
        for (kind, count) in later.kinds {
            match self.kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, known)) => *known += count,
                None => self.kinds.push((kind, count)),
            }
        }
        self.error = later.error;
        self
    }
}

/// The body of a notice, if this callback is one.
pub fn notice_of(record: &Record) -> Option<Vec<u8>> {
    // This check comes first, because the function is called at every attempt.
    if !record.destination.is_notice() {
        return None;
    }
    let url = Url::parse(record.url.reveal()).ok()?;
    let content = url.query_pairs().find(|(name, _)| name == NOTICE)?.1;
    Some(content.into_owned().into_bytes())
}
