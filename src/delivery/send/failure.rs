//! Classifies and describes errors of the HTTP client: by what the receiver did, without the client's
//! layers and without the URL.

use std::error::Error;

use super::{
    names::{DnsError, NoLookup},
    progress::ConnectTimeout,
};
use crate::{
    egress::Denied,
    outbox::{ErrorKind, Failure},
};

/// Maximum length of an error message, in bytes.
const MAX_MESSAGE_BYTES: usize = 400;

/// The egress policy forbids it.
pub(crate) fn egress_failure(denied: &Denied) -> Failure {
    Failure::new(ErrorKind::Egress, denied.to_string())
}

/// The message for a status other than 2xx.
pub(crate) fn status_message(status: u16) -> String {
    let reason = http::StatusCode::from_u16(status).ok().and_then(|it| it.canonical_reason());
    let redirect = match status {
        300..400 => "; redirects are not followed",
        407 => "; the proxy requires a user and a password in egress.proxy",
        _ => "",
    };
    match reason {
        Some(reason) => format!("the receiver responded with {status} {reason}{redirect}"),
        None => format!("the receiver responded with {status}{redirect}"),
    }
}

/// The phase of an exchange in which an error of the client occurred, and its message. The URL, which
/// may contain a password, is removed first.
pub(crate) fn describe(error: reqwest::Error, answering: bool) -> Failure {
    let error = error.without_url();
    let mut kind = if answering {
        ErrorKind::Body
    } else if error.is_timeout() {
        ErrorKind::Timeout
    } else if error.is_builder() {
        ErrorKind::InvalidUrl
    } else {
        ErrorKind::Connect
    };
    let mut message = String::new();
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if let Some(denied) = cause.downcast_ref::<Denied>() {
            return egress_failure(denied);
        }
        if cause.is::<DnsError>() {
            return Failure::new(ErrorKind::Dns, text);
        }
        if cause.is::<ConnectTimeout>() {
            return Failure::new(ErrorKind::Timeout, text);
        }
        if is_tls(cause) {
            kind = ErrorKind::Tls;
        }
        if closed(cause) {
            return Failure::new(kind, closed_message(answering));
        }
        if let Some(http) = cause.downcast_ref::<h2::Error>() {
            let message = match http.reason() {
                _ if http.is_io() => closed_message(answering).into(),
                Some(reason) => {
                    format!("HTTP/2 protocol error of the receiver: {}", reason.description())
                }
                None => format!("HTTP/2 protocol error of the receiver: {http}"),
            };
            let kind = if http.is_io() { kind } else { ErrorKind::Body };
            return Failure::new(kind, message);
        }
        if let Some(http) = cause.downcast_ref::<hyper::Error>() {
            if http.is_canceled() {
                let message = "the receiver closed the connection as soon as it was made; \
                               behind TLS it may want a client certificate (tls.client_cert_file)";
                return Failure::new(kind, message);
            }
            if http.is_parse_too_large() {
                return Failure::new(ErrorKind::Body, "the response head is too long");
            }
            if http.is_parse() {
                kind = ErrorKind::Body;
                message.push_str("the response is not HTTP: ");
            }
        }
        // Causes often repeat the one below, and the client's own layers add nothing.
        let repeats = cause.source().is_some_and(|below| text.contains(&below.to_string()));
        let layer =
            ["client error (", "error reading a body"].iter().any(|it| text.starts_with(it));
        if !repeats && !layer {
            if !message.is_empty() && !message.ends_with(": ") {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
        source = cause.source();
    }
    if message.is_empty() {
        message = error.to_string();
    }
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
    Failure::new(kind, message)
}

/// Whether the receiver closed a kept-alive connection without having processed this request (RFC 9112,
/// 9.3.1; RFC 9113, 8.7).
pub(crate) fn is_unheard(error: &reqwest::Error) -> bool {
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(cause) = source {
        let reset = cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
            use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
            matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe)
        });
        let refused = cause.downcast_ref::<h2::Error>().is_some_and(|error| {
            error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
                || error.reason() == Some(h2::Reason::REFUSED_STREAM)
        });
        let canceled = cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        if closed(cause) || reset || refused || canceled {
            return true;
        }
        source = cause.source();
    }
    false
}

/// Whether the DNS look-up could not start.
pub(crate) fn is_not_looked_up(error: &reqwest::Error) -> bool {
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(cause) = source {
        if cause.is::<NoLookup>() {
            return true;
        }
        source = cause.source();
    }
    false
}

fn closed_message(answering: bool) -> &'static str {
    if answering {
        "the receiver closed the connection before the response body was complete"
    } else {
        "the receiver closed the connection before it responded"
    }
}

/// Whether the peer closed the connection.
fn closed(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
        || cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof)
}

/// A rustls error travels inside an I/O error, and that inside another one.
fn is_tls(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<rustls::Error>()
        || cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .is_some_and(|inner| is_tls(inner))
}
