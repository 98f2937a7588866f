//! The headers of a request (docs/receiving-callbacks.md).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::signing;
use crate::{
    callback::Span,
    clock::Timestamp,
    outbox::{ErrorKind, Failure, Record},
};

/// Headers that the service sets itself, besides `webhook-…` and `content-…`.
const OWN: [&str; 4] = ["callback-attempt", "traceparent", "tracestate", "user-agent"];

/// Headers that belong to the connection (RFC 9110, 7.6.1), to the message's framing, or to a proxy.
const OF_THE_CONNECTION: [HeaderName; 9] = [
    header::HOST,
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    HeaderName::from_static("http2-settings"),
];

/// Why the settings may not set a header; `None` if they may.
pub fn reserved(name: &HeaderName) -> Option<&'static str> {
    let text = name.as_str();
    if OWN.contains(&text) || ["webhook-", "content-"].iter().any(|it| text.starts_with(it)) {
        Some("the service sets it itself")
    } else if OF_THE_CONNECTION.contains(name) || text.starts_with("proxy-") {
        Some("it belongs to the connection")
    } else {
        None
    }
}

/// The headers of an attempt that began at `started_at`.
pub(super) fn of(
    record: &Record,
    started_at: Timestamp,
    secrets: &[signing::Secret],
    body: &[u8],
) -> Result<HeaderMap, Failure> {
    let timestamp = started_at.as_secs();
    let text = |value: String| {
        HeaderValue::try_from(value)
            .map_err(|error| Failure::new(ErrorKind::InvalidUrl, error.to_string()))
    };
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", text(record.id.to_string())?);
    headers.insert("webhook-timestamp", timestamp.into());
    headers.insert("callback-attempt", record.next_attempt().into());
    if let Some(trace) = &record.trace {
        let span = Span::of(record.id, record.next_attempt());
        headers.insert("traceparent", text(trace.parent(span))?);
        if let Some(state) = trace.state() {
            headers.insert("tracestate", text(state.to_owned())?);
        }
    }
    if let Some(signed) = signing::signature(secrets, record.id, timestamp, body) {
        headers.insert("webhook-signature", text(signed)?);
    }
    Ok(headers)
}
