//! The section `notify`: where the operator is told of failures.

use std::time::Duration;

use super::reader::Reader;
use crate::{
    callback::{SecretUrl, parse_url},
    egress::Policy,
    outbox::Notices,
};

const URL: &str = "notify.url";

/// The URL of notices, and the windows of which there is one each.
pub(super) fn settings(r: &mut Reader) -> Option<(SecretUrl, Notices)> {
    const DEFAULT: Duration = Duration::from_mins(15);
    let window = r.duration("notify.window", DEFAULT, Duration::from_secs(1));
    let text = r.text(URL)?;
    let url = SecretUrl::from(text);
    r.show(URL, &url);
    match parse_url(url.reveal()) {
        Ok(parsed) => Some((url, Notices::new(&parsed, window))),
        Err(error) => {
            r.fault(URL, format!("is not the URL of a receiver: {error}"));
            None
        }
    }
}

/// Rejects a URL that would never be called.
pub(super) fn check(r: &mut Reader, url: Option<&SecretUrl>, egress: &Policy) {
    if let Some(Ok(url)) = url.map(|url| parse_url(url.reveal()))
        && let Err(denied) = egress.check_url(&url)
    {
        r.fault(URL, format!("is not called: {denied}"));
    }
}
