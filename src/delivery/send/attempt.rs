//! One PUT under one deadline, and its [`Outcome`].
//!
//! Only the status, `Retry-After` and the end of the body are interpreted. Redirects are not followed,
//! and at most `delivery.max_response_bytes` are read.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, header};
use tokio::time::timeout;

use super::{
    clients::Clients,
    credentials::Credentials,
    failure::{describe, is_not_looked_up, is_unheard, status_message},
    headers,
    not_made::NotMade,
    oauth::{NoToken, Token},
    progress::Progress,
    publish::publish,
    response::{Seen, excerpt, retry_after},
    section::Section,
    signing,
};
use crate::{
    callback::{Destination, SecretUrl, parse_url},
    clock::{SharedClock, Timestamp},
    delivery::outcome::{Outcome, Verdict},
    measure,
    outbox::{Attempt, Broker, ErrorKind, Failure, Record, notice_of},
    recent::{self, Reason},
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
    /// The parts that depend on settings. They can be replaced while attempts are in progress, which continue
    /// with what they began with.
    pub means: Arc<ArcSwap<Means>>,
    /// For outcome events.
    pub broker: Option<Arc<dyn Broker>>,
    /// The clock.
    pub clock: SharedClock,
}

/// What an attempt needs from the settings.
#[derive(Debug)]
pub struct Means {
    /// The HTTP clients.
    pub clients: Clients,
    /// Time-out and limits.
    pub settings: Settings,
    /// Signing secrets, newest first.
    pub secrets: Vec<signing::Secret>,
    /// Statuses after which a callback is not retried.
    pub final_statuses: BTreeSet<u16>,
    /// Where notices go.
    pub notify: Option<SecretUrl>,
}

/// The result of an attempt.
#[derive(Debug)]
pub enum Sent {
    /// It was made.
    Ended(Outcome),
    /// No request was made: its DNS look-up could not start.
    NotMade,
    /// There is no access token for the receiver, which is not the receiver's failure.
    NoToken(NoToken),
}

impl Sent {
    /// The outcome, if the attempt was made.
    pub fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Ended(outcome) => Some(outcome),
            Self::NotMade | Self::NoToken(_) => None,
        }
    }
}

impl Sender {
    /// Makes the next attempt of a callback. With `close_after`, the connection is closed after the
    /// response.
    pub async fn put(&self, record: &Record, close_after: bool) -> Sent {
        let means = self.means.load_full();
        let lane = &record.destination;
        let (addressed, body) = means.addressed(record);
        let record = &*addressed;
        let section = means.clients.section(&record.destination);
        let mut token = match means.token(section, record, None).await {
            Ok(token) => token,
            Err(error) => return self.no_token(lane, error),
        };
        let mut renewed = false;
        loop {
            let started_at = self.clock.now();
            if !renewed {
                let first = record.attempt_count == 0;
                measure::attempt_begins(first.then(|| started_at.since(record.created_at)));
            }
            let exchange =
                Exchange { means: &means, section, record, body: &body, token: token.as_deref() };
            let outcome = self.exchange(&exchange, close_after, started_at).await;
            let Some(outcome) = outcome else { return Sent::NotMade };
            if outcome.attempt.status == Some(401) && token.is_some() && !renewed {
                // The receiver may reject the token before its announced lifetime is over.
                renewed = true;
                token = match means.token(section, record, token.as_deref()).await {
                    Ok(token) => token,
                    Err(error) => return self.no_token(lane, error),
                };
                continue;
            }
            let Attempt { started_at, duration_ms, error, .. } = &outcome.attempt;
            let took = Duration::from_millis(*duration_ms);
            measure::attempt_ended(error.as_ref().map(|it| it.kind.as_str()), took);
            recent::attempt(lane, outcome.reason(), started_at.after(took));
            return Sent::Ended(outcome);
        }
    }

    fn no_token(&self, lane: &Destination, error: NoToken) -> Sent {
        let (kind, message) = ("token", error.to_string());
        let reason = Reason { kind, status: None, message, of_destination: true };
        recent::held_up(lane, reason, self.clock.now());
        Sent::NoToken(error)
    }

    async fn exchange(
        &self,
        exchange: &Exchange<'_>,
        close_after: bool,
        started_at: Timestamp,
    ) -> Option<Outcome> {
        let Exchange { means, section, record, .. } = exchange;
        let clock = Instant::now();
        let mut seen = Seen::default();
        let deadline = means.deadline(*section);
        // A panic in the client affects only this attempt: the slot and the claim are released.
        let progress = Progress::default();
        let made = async {
            if record.destination.is_broker() {
                return Ok(publish(self.broker.as_deref(), record).await?);
            }
            exchange.make(close_after, started_at, &self.clock, &progress, &mut seen).await
        };
        let exchange = progress.of(made);
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
        let (verdict, error) = means.judge(result, &seen);
        if error.as_ref().is_some_and(|it| it.kind == ErrorKind::Timeout) {
            means.renew_connections(record);
        }
        let excerpt = excerpt(&seen, means.settings.excerpt_bytes);
        Some(Outcome {
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
        })
    }
}

impl Means {
    /// A callback with the URL that it is sent to, and its body. Only those of a notice are not its own.
    fn addressed<'a>(&self, record: &'a Record) -> (Cow<'a, Record>, Bytes) {
        match (notice_of(record), &self.notify) {
            (None, _) => (Cow::Borrowed(record), record.body.to_json().into()),
            (Some(notice), Some(url)) => {
                let destination = Destination::of_callback(url.reveal());
                let record = Record { url: url.clone(), destination, ..record.clone() };
                (Cow::Owned(record), notice.into())
            }
            // It keeps its own URL, which can never be called.
            (Some(notice), None) => (Cow::Borrowed(record), notice.into()),
        }
    }

    /// Time-out of an exchange.
    fn deadline(&self, section: Option<&Section>) -> Duration {
        section.and_then(|it| it.timeout).unwrap_or(self.settings.timeout)
    }

    /// The access token for the receiver, if it requires one: not `refused`. The user in a URL is the
    /// job's own, and needs none.
    async fn token(
        &self,
        section: Option<&Section>,
        record: &Record,
        refused: Option<&Token>,
    ) -> Result<Option<Arc<Token>>, NoToken> {
        let Some(tokens) = section.and_then(|it| it.tokens.as_ref()) else { return Ok(None) };
        let url = parse_url(record.url.reveal()).ok();
        if url.and_then(|mut url| Credentials::take(&mut url)).is_some() {
            return Ok(None);
        }
        let server = Destination::of(tokens.url());
        let deadline = self.deadline(self.clients.section(&server));
        tokens.token(&self.clients, deadline, refused).await.map(Some)
    }

    /// After a time-out over TLS, renews the connections to the destination, at most once in
    /// [`RENEWAL_PAUSE`]: an HTTP/2 connection whose peer is gone is never idle, and would be used for
    /// ever.
    fn renew_connections(&self, record: &Record) {
        let Ok(url) = parse_url(record.url.reveal()) else { return };
        if url.scheme() != "https" {
            return;
        }
        if let Err(error) = self.clients.renew(&url, &record.destination, RENEWAL_PAUSE) {
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
}

/// One exchange with a receiver.
struct Exchange<'a> {
    means: &'a Means,
    section: Option<&'a Section>,
    record: &'a Record,
    body: &'a Bytes,
    token: Option<&'a Token>,
}

impl Exchange<'_> {
    async fn make(
        &self,
        close_after: bool,
        started_at: Timestamp,
        clock: &SharedClock,
        progress: &Progress,
        seen: &mut Seen,
    ) -> Result<(), NotMade> {
        let Self { means, section, record, body, token } = *self;
        let Means { clients, settings, .. } = means;
        if record.destination.is_notice() {
            return Err(Failure::new(ErrorKind::InvalidUrl, "notify.url is not set").into());
        }
        let mut url = parse_url(record.url.reveal())
            .map_err(|error| Failure::new(ErrorKind::InvalidUrl, error.to_string()))?;
        clients.check(&url, &record.destination).await?;
        let mut headers = headers::of(record, started_at, &means.secrets, body)?;
        if close_after {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(section) = section {
            headers.extend(section.headers.clone());
            seen.secrets.clone_from(&section.secrets);
        }
        let of_url = Credentials::take(&mut url);
        let of_section = section.and_then(|section| section.credentials.as_ref());
        let credentials = of_url.as_ref().or(token.map(|it| &it.credentials)).or(of_section);
        if let Some(credentials) = credentials {
            seen.secrets.extend(credentials.secrets());
            let header = credentials.header().ok_or_else(|| {
                Failure::new(ErrorKind::InvalidUrl, "the credentials cannot be sent in a header")
            })?;
            headers.insert(header::AUTHORIZATION, header);
        }
        let client = clients.of(&url, &record.destination)?;
        let request = client.put(url.clone()).headers(headers).body(body.clone()).build();
        let request = request.map_err(|error| describe(error, false))?;
        let again = request.try_clone();
        measure::exchange();
        progress.begins();
        let sent = client.execute(request).await;
        let mut response = match (sent, again) {
            // The receiver may close a kept-alive connection just when it is used. It has not processed
            // the request then, and a PUT may be repeated (RFC 9112, 9.3.1).
            (Err(error), Some(again)) if progress.is_pooled() && is_unheard(&error) => {
                measure::exchange();
                clients.fresh(&url, &record.destination)?.execute(again).await
            }
            (sent, _) => sent,
        }
        .map_err(|error| {
            if is_not_looked_up(&error) { NotMade::NoLookup } else { describe(error, false).into() }
        })?;
        seen.status = Some(response.status().as_u16());
        seen.peer = response.remote_addr().map(|peer| peer.to_string());
        seen.retry_after = retry_after(response.headers(), clock.now());
        let mut read = 0_usize;
        // Long enough that a secret that begins within the excerpt is recognized.
        let longest = seen.secrets.iter().map(String::len).max().unwrap_or(0);
        let keep = settings.excerpt_bytes + longest;
        while let Some(chunk) = response.chunk().await.map_err(|error| describe(error, true))? {
            read = read.saturating_add(chunk.len());
            let wanted = keep.saturating_sub(seen.excerpt.len());
            seen.excerpt.extend_from_slice(&chunk[..chunk.len().min(wanted)]);
            if read > settings.max_response_bytes {
                let max = settings.max_response_bytes;
                let message = format!("the response body is longer than {max} bytes");
                return Err(Failure::new(ErrorKind::Body, message).into());
            }
        }
        Ok(())
    }
}
