//! The section `notify`: notices of failures.

use std::time::Duration;

use super::reader::Reader;
use crate::{
    callback::{SecretUrl, parse_url},
    egress::Policy,
    outbox::Notices,
};

const URL: &str = "notify.url";

/// The URL of notices, and the length of their windows. A URL that the egress rules deny is a fault.
pub(super) fn settings(r: &mut Reader, egress: &Policy) -> Option<(SecretUrl, Notices)> {
    const DEFAULT: Duration = Duration::from_mins(15);
    let window = r.duration("notify.window", DEFAULT, Duration::from_secs(1));
    let text = r.text(URL)?;
    let url = SecretUrl::from(text);
    r.show(URL, &url);
    let parsed = match parse_url(url.reveal()) {
        Ok(parsed) => parsed,
        Err(error) => {
            r.fault(URL, format!("is not the URL of a receiver: {error}"));
            return None;
        }
    };
    if let Err(denied) = egress.check_url(&parsed) {
        r.fault(URL, format!("is denied: {denied}"));
    }
    Some((url, Notices::new(&parsed, window)))
}
