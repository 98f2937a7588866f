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

/// The causes of an error, from the outermost to the innermost, without the error itself.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
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
    for cause in causes(&error) {
        let text = cause.to_string();
        if let Some(denied) = cause.downcast_ref::<Denied>() {
            return Failure::denied(denied);
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
        // Causes often repeat the next one, and the client's own layers add no information.
        let repeats = cause.source().is_some_and(|below| text.contains(&below.to_string()));
        let layer =
            ["client error (", "error reading a body"].iter().any(|it| text.starts_with(it));
        if !repeats && !layer {
            if !message.is_empty() && !message.ends_with(": ") {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
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
    causes(error).any(|cause| {
        let reset = cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
            use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
            matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe)
        });
        let refused = cause.downcast_ref::<h2::Error>().is_some_and(|error| {
            error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
                || error.reason() == Some(h2::Reason::REFUSED_STREAM)
        });
        let canceled = cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        closed(cause) || reset || refused || canceled
    })
}

/// Whether the DNS look-up could not start.
pub(crate) fn is_not_looked_up(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.is::<NoLookup>())
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

/// Whether it is a rustls error, which may be wrapped in several I/O errors.
fn is_tls(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<rustls::Error>()
        || cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .is_some_and(|inner| is_tls(inner))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        sync::Arc,
    };

    use reqwest::dns::{Name, Resolve, Resolving};

    use super::*;

    /// An error of a look-up, and its cause.
    #[derive(Debug, Clone, thiserror::Error)]
    #[error("{text}")]
    struct LookupFailed {
        text: String,
        source: Option<Box<LookupFailed>>,
    }

    impl Resolve for LookupFailed {
        fn resolve(&self, _: Name) -> Resolving {
            Box::pin(std::future::ready(Err(self.clone().into())))
        }
    }

    fn client() -> reqwest::ClientBuilder {
        let tls = crate::tls::client(Vec::new(), None).unwrap();
        let never = reqwest::retry::never();
        reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().retry(never)
    }

    async fn put(client: reqwest::ClientBuilder, url: &str) -> reqwest::Error {
        client.build().unwrap().put(url).body("{}").send().await.unwrap_err()
    }

    /// The prefix that the client adds to the error of a look-up.
    const CLIENT: &str = "dns error: error resolving DNS: ";

    /// The message for a look-up that failed with these errors, each the cause of the previous one.
    async fn message(texts: &[&str]) -> String {
        let mut source = None;
        for text in texts.iter().rev() {
            source = Some(Box::new(LookupFailed { text: (*text).to_owned(), source }));
        }
        let client = client().dns_resolver(Arc::new(*source.unwrap()));
        let message = describe(put(client, "http://h/").await, false).message;
        message.strip_prefix(CLIENT).unwrap_or_else(|| panic!("{message}")).to_owned()
    }

    /// The error of a request over HTTP/2 to which the receiver responds with these frames. Without
    /// frames, it closes the connection.
    async fn answered(frames: &[u8]) -> reqwest::Error {
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let frames = [&SETTINGS, frames].concat();
        std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"{}") {
                let read = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(&frames).unwrap();
            // Until the client closes the connection, so that it reads the frames.
            while frames.len() > SETTINGS.len() && stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
        put(client().http2_prior_knowledge(), &url).await
    }

    /// Resets the request's stream.
    const RESET: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1];

    /// Closes the connection, none of whose streams was processed.
    const GO_AWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[tokio::test]
    async fn only_a_request_that_was_not_processed_is_unheard() {
        use h2::Reason;
        for (frame, reason, unheard) in [
            (RESET, Reason::REFUSED_STREAM, true),
            (RESET, Reason::INTERNAL_ERROR, false),
            (GO_AWAY, Reason::NO_ERROR, true),
            (GO_AWAY, Reason::INTERNAL_ERROR, false),
        ] {
            let error = answered(&[frame, &u32::from(reason).to_be_bytes()].concat()).await;
            assert_eq!(is_unheard(&error), unheard, "{error:?}");
            let failure = describe(error, false);
            let expected =
                format!("HTTP/2 protocol error of the receiver: {}", reason.description());
            assert_eq!((failure.kind, failure.message), (ErrorKind::Body, expected));
        }
        let error = answered(&[]).await;
        assert!(is_unheard(&error), "{error:?}");
        assert_eq!(describe(error, false).kind, ErrorKind::Connect);
    }

    #[tokio::test]
    async fn a_message_has_each_cause_once_and_no_layer_of_the_client() {
        assert_eq!(message(&["no such host"]).await, "no such host");
        assert_eq!(message(&["no luck", "no such host"]).await, "no luck: no such host");
        assert_eq!(message(&["no luck: no such host", "no such host"]).await, "no such host");
        assert_eq!(message(&["asked: ", "no such host"]).await, "asked: no such host");
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_cut_off() {
        let most = MAX_MESSAGE_BYTES - CLIENT.len();
        let longest = "x".repeat(most);
        assert_eq!(message(&[&longest]).await, longest);
        assert_eq!(message(&[&(longest.clone() + "x")]).await, format!("{longest}…"));
        let cut = "x".repeat(most - 1);
        assert_eq!(message(&[&format!("{cut}é")]).await, format!("{cut}…"));
    }

    #[test]
    fn the_message_for_a_status_explains_redirects_and_a_proxy_without_credentials() {
        let message = status_message;
        assert_eq!(
            message(302),
            "the receiver responded with 302 Found; redirects are not followed"
        );
        assert_eq!(message(399), "the receiver responded with 399; redirects are not followed");
        assert_eq!(
            message(407),
            "the receiver responded with 407 Proxy Authentication Required; \
             the proxy requires a user and a password in egress.proxy"
        );
        assert_eq!(message(404), "the receiver responded with 404 Not Found");
    }
}
