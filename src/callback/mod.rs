//! The callback: its id, URL and destination, and its body with six keys.

mod body;
mod destination;
mod id;
mod pattern;
mod secret;
mod trace;
mod tracker;
mod url;

pub use self::{
    body::{Body, JobState},
    destination::{Destination, DestinationMap},
    id::{CallbackId, ParseIdError},
    pattern::{Pattern, PatternError, PatternMap},
    secret::{SecretUrl, redact_url},
    trace::{Span, Trace},
    tracker::{DEFAULT_TRACKER_TEMPLATE, tracker_template, tracker_url},
    url::{UrlError, parse_url},
};
