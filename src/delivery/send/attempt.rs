//! One PUT under one deadline, and its [`Outcome`].
//!
//! Only the status, `Retry-After` and the end of the body are interpreted. Redirects are not followed,
//! and at most `delivery.max_response_bytes` are read.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, header};
use tokio::time::timeout;

use super::{
    client::{CheckError, ClientError, Clients},
    failure::{describe, is_not_looked_up, is_unheard, status_message},
    progress::Progress,
    publish::publish,
    signing,
};
use crate::{
    callback::parse_url,
    clock::{SharedClock, Timestamp},
    delivery::outcome::{Outcome, Verdict},
    measure,
    outbox::{Attempt, Broker, ErrorKind, Failure, Record},
    recent,
};

/// Minimum time between two renewals of the connections to one destination.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// The settings of one attempt: `delivery.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Time-out for the whole exchange: DNS, connection, request, response and its body.
    pub timeout: Duration,
    /// Maximum size of a response body, in bytes.
    pub max_response_bytes: usize,
    /// Maximum number of bytes of a response body that are stored.
    pub excerpt_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), max_response_bytes: 65_536, excerpt_bytes: 1024 }
    }
}

/// Everything that an attempt needs.
#[derive(Debug)]
pub struct Sender {
    /// The HTTP clients. They can be replaced while attempts are in progress.
    pub clients: Arc<ArcSwap<Clients>>,
    /// Time-out and limits.
    pub settings: Settings,
    /// Signing secrets, newest first.
    pub secrets: Vec<signing::Secret>,
    /// Statuses after which a callback is not retried.
    pub final_statuses: std::collections::BTreeSet<u16>,
    /// For outcome events.
    pub broker: Option<Arc<dyn Broker>>,
    /// The clock.
    pub clock: SharedClock,
}

/// Why an exchange has no response.
#[derive(Debug)]
enum NotMade {
    /// No request was made: its DNS look-up could not start.
    NoLookup,
    /// The exchange failed.
    Failed(Failure),
}

impl From<Failure> for NotMade {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<CheckError> for NotMade {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Denied(denied) => Self::Failed(Failure::denied(&denied)),
            CheckError::Unsupported => {
                Self::Failed(Failure::new(ErrorKind::InvalidUrl, error.to_string()))
            }
            CheckError::NoLookup(_) => Self::NoLookup,
        }
    }
}

impl From<ClientError> for NotMade {
    fn from(error: ClientError) -> Self {
        Self::Failed(Failure::new(ErrorKind::Connect, error.to_string()))
    }
}

/// The part of a response received so far, in case the deadline passes.
#[derive(Debug, Default)]
struct Seen {
    status: Option<u16>,
    peer: Option<String>,
    excerpt: Vec<u8>,
    /// Secrets in the request, which a receiver may echo.
    secrets: Vec<String>,
    retry_after: Option<Duration>,
}

impl Sender {
    /// Makes the next attempt of a callback. With `close_after`, the connection is closed after the
    /// response. `None` if no request was made, because its DNS look-up could not start.
    pub async fn put(&self, record: &Record, close_after: bool) -> Option<Outcome> {
        let started_at = self.clock.now();
        let clock = Instant::now();
        let first = record.attempt_count == 0;
        measure::attempt_begins(first.then(|| started_at.since(record.created_at)));
        let mut seen = Seen::default();
        let deadline = self.settings.timeout;
        // A panic in the client affects only this attempt: the slot and the claim are released.
        let progress = Progress::default();
        let exchange =
            progress.of(self.exchange(record, close_after, started_at, &progress, &mut seen));
        let exchange = AssertUnwindSafe(exchange).catch_unwind();
        let result = match timeout(deadline, exchange).await {
            Ok(Ok(Err(NotMade::NoLookup))) => return None,
            Ok(Ok(Err(NotMade::Failed(failure)))) => Err(failure),
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Err(_)) => {
                let message = "internal error during the attempt; see the service's stderr";
                Err(Failure::new(ErrorKind::Connect, message))
            }
            Err(_) if progress.is_waiting() => return None,
            Err(_) => {
                let limit = humantime::format_duration(deadline);
                let message = match seen.status {
                    Some(_) => format!("the response body was not complete within {limit}"),
                    None => format!("no response within {limit}"),
                };
                Err(Failure::new(ErrorKind::Timeout, message))
            }
        };
        let took = clock.elapsed();
        let (verdict, error) = self.judge(result, &seen);
        if error.as_ref().is_some_and(|it| it.kind == ErrorKind::Timeout) {
            self.renew_connections(record);
        }
        measure::attempt_ended(error.as_ref().map(|it| it.kind.as_str()), took);
        let excerpt = excerpt(&seen, self.settings.excerpt_bytes);
        let outcome = Outcome {
            attempt: Attempt {
                number: record.next_attempt(),
                started_at,
                duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                status: seen.status,
                error,
                peer: seen.peer,
                response_excerpt: (!excerpt.is_empty()).then_some(excerpt),
            },
            verdict,
            retry_after: seen.retry_after,
        };
        recent::attempt(&record.destination, outcome.reason(), started_at.after(took));
        Some(outcome)
    }

    /// After a time-out over TLS, renews the connections to the destination, at most once in
    /// [`RENEWAL_PAUSE`]: an HTTP/2 connection whose peer is gone is never idle, and would be used for
    /// ever.
    fn renew_connections(&self, record: &Record) {
        let Ok(url) = parse_url(record.url.reveal()) else { return };
        if url.scheme() != "https" {
            return;
        }
        let clients = self.clients.load();
        if let Err(error) = clients.renew(&url, &record.destination, RENEWAL_PAUSE) {
            tracing::error!(
                event.action = "client-failed",
                callback.destination = record.destination.as_str(),
                error.message = %error,
                "cannot renew the connections to a receiver"
            );
        }
    }

    /// A status other than 2xx determines the verdict, whether or not the body is complete.
    fn judge(&self, result: Result<(), Failure>, seen: &Seen) -> (Verdict, Option<Failure>) {
        match (seen.status, result) {
            (Some(200..=299), Ok(())) => (Verdict::Success, None),
            (Some(200..=299) | None, Err(failure)) => {
                let verdict = match failure.kind {
                    ErrorKind::Egress | ErrorKind::InvalidUrl => Verdict::Final,
                    _ => Verdict::Transient,
                };
                let failure = Failure { status: seen.status, ..failure };
                (verdict, Some(failure))
            }
            (Some(status), _) => {
                let verdict = if self.final_statuses.contains(&status) {
                    Verdict::Final
                } else {
                    Verdict::Transient
                };
                let failure = Failure {
                    kind: ErrorKind::Status,
                    message: status_message(status),
                    status: Some(status),
                };
                (verdict, Some(failure))
            }
            (None, Ok(())) => (Verdict::Success, None),
        }
    }

    async fn exchange(
        &self,
        record: &Record,
        close_after: bool,
        started_at: Timestamp,
        progress: &Progress,
        seen: &mut Seen,
    ) -> Result<(), NotMade> {
        if record.destination.is_broker() {
            return Ok(publish(self.broker.as_deref(), record).await?);
        }
        let mut url = parse_url(record.url.reveal())
            .map_err(|error| Failure::new(ErrorKind::InvalidUrl, error.to_string()))?;
        let clients = self.clients.load_full();
        clients.check(&url).await?;
        let body = record.body.to_json();
        let mut headers = self.headers(record, started_at, &body)?;
        if close_after {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let credentials = clients.credentials(&mut url, &record.destination);
        let client = clients.of(&url, &record.destination)?;
        let mut request = client.put(url.clone()).headers(headers).body(body);
        if let Some(credentials) = credentials {
            seen.secrets = credentials.secrets();
            let header = credentials.header().ok_or_else(|| {
                Failure::new(ErrorKind::InvalidUrl, "the credentials cannot be sent in a header")
            })?;
            request = request.header(header::AUTHORIZATION, header);
        }
        let request = request.build().map_err(|error| describe(error, false))?;
        let again = request.try_clone();
        measure::exchange();
        progress.begins();
        let sent = client.execute(request).await;
        let mut response = match (sent, again) {
            // The receiver may close a kept-alive connection just when it is used. It has not processed
            // the request then, and a PUT may be repeated (RFC 9112, 9.3.1).
            (Err(error), Some(again)) if progress.is_pooled() && is_unheard(&error) => {
                measure::exchange();
                clients.fresh(&url)?.execute(again).await
            }
            (sent, _) => sent,
        }
        .map_err(|error| {
            if is_not_looked_up(&error) { NotMade::NoLookup } else { describe(error, false).into() }
        })?;
        seen.status = Some(response.status().as_u16());
        seen.peer = response.remote_addr().map(|peer| peer.to_string());
        seen.retry_after = retry_after(response.headers(), self.clock.now());
        let mut read = 0_usize;
        // Long enough that a secret that begins within the excerpt is recognized.
        let longest = seen.secrets.iter().map(String::len).max().unwrap_or(0);
        let keep = self.settings.excerpt_bytes + longest;
        while let Some(chunk) = response.chunk().await.map_err(|error| describe(error, true))? {
            read = read.saturating_add(chunk.len());
            let wanted = keep.saturating_sub(seen.excerpt.len());
            seen.excerpt.extend_from_slice(&chunk[..chunk.len().min(wanted)]);
            if read > self.settings.max_response_bytes {
                let max = self.settings.max_response_bytes;
                let message = format!("the response body is longer than {max} bytes");
                return Err(Failure::new(ErrorKind::Body, message).into());
            }
        }
        Ok(())
    }

    /// The headers of the request (docs/receiving-callbacks.md).
    fn headers(
        &self,
        record: &Record,
        started_at: Timestamp,
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
        if let Some(signed) = signing::signature(&self.secrets, record.id, timestamp, body) {
            headers.insert("webhook-signature", text(signed)?);
        }
        Ok(headers)
    }
}

/// The beginning of the response body, without the secrets of the request.
fn excerpt(seen: &Seen, max: usize) -> String {
    let text = String::from_utf8_lossy(&seen.excerpt);
    let mut shown = String::new();
    let mut at = 0;
    // Text that begins after the limit is omitted, so that no secret is cut in two.
    while let Some(next) = text[at..].chars().next().filter(|_| at < max) {
        match seen.secrets.iter().find(|secret| text[at..].starts_with(secret.as_str())) {
            Some(secret) => {
                shown.push_str("***");
                at += secret.len();
            }
            None => {
                shown.push(next);
                at += next.len_utf8();
            }
        }
    }
    shown.truncate(shown.floor_char_boundary(max));
    shown
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); `None` if it is missing or invalid. The
/// first valid header is used. A number of seconds may have any number of digits and saturates.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    headers.get_all(header::RETRY_AFTER).iter().find_map(|value| {
        let value = value.to_str().ok()?.trim();
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
        }
        let date = httpdate::parse_http_date(value).or_else(|error| match leap_second(value) {
            Some(second_before) => httpdate::parse_http_date(&second_before),
            None => Err(error),
        });
        Some(Timestamp::from(date.ok()?).since(now))
    })
}

/// A date with a leap second (RFC 9110, 5.6.7), converted to the second before it.
fn leap_second(date: &str) -> Option<String> {
    let at = date.find(":60").filter(|at| date[..*at].contains(':'))?;
    Some(format!("{}:59{}", &date[..at], &date[at + 3..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now: Timestamp = "2015-10-21T07:28:00Z".parse().unwrap();
        let requested = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            retry_after(&headers, now)
        };
        assert_eq!(requested("120"), Some(Duration::from_mins(2)));
        assert_eq!(requested("Wed, 21 Oct 2015 07:29:00 GMT"), Some(Duration::from_mins(1)));
        assert_eq!(requested("Wed, 21 Oct 2015 07:27:00 GMT"), Some(Duration::ZERO));
        for broken in ["", "soon", "-1", "+1", "1.5", "1 2", "Wed, 21 Oct 2015 07:60:00 GMT"] {
            assert_eq!(requested(broken), None, "{broken}");
        }
        let longest = Some(Duration::from_secs(u64::MAX));
        assert_eq!(requested("99999999999999999999"), longest);
        assert_eq!(requested(" 0120 "), Some(Duration::from_mins(2)));
        for date in [
            "Wed, 21 Oct 2015 07:28:60 GMT",
            "Wednesday, 21-Oct-15 07:28:60 GMT",
            "Wed Oct 21 07:28:60 2015",
        ] {
            assert_eq!(requested(date), Some(Duration::from_secs(59)), "{date}");
        }
    }

    #[test]
    fn an_excerpt_ends_at_its_limit_where_secrets_are_removed_as_well() {
        let (excerpt, secrets) = (b"secretab".to_vec(), vec!["secret".to_owned()]);
        let seen = Seen { excerpt, secrets, ..Seen::default() };
        assert_eq!([6, 7].map(|max| super::excerpt(&seen, max)), ["***", "***a"]);
    }

    #[test]
    fn the_first_valid_retry_after_counts() {
        let mut headers = HeaderMap::new();
        for value in ["soon", "7", "9"] {
            headers.append(header::RETRY_AFTER, HeaderValue::from_static(value));
        }
        headers.append(header::RETRY_AFTER, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(retry_after(&headers, Timestamp::default()), Some(Duration::from_secs(7)));
    }
}
