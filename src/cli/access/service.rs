//! Client of the running service's API.

use std::{
    fs::File,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use super::listing::{Listing, NOT_TAKEN};
use crate::{
    api::{
        Problem,
        action_view::ActionRequest,
        destination_view::{DestinationRequest, DestinationView},
        export::ExportView,
        reloads::Reloaded,
        sign_in::SignInView,
        view::{CallbackView, FaultView, LineView, OutcomeView, PageView, QueueView},
    },
    callback::CallbackId,
    config::Config,
    datadir::{self, Note},
    health::SourceState,
    select::Action,
    tls,
};

/// Time-out for connecting to the service.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Time-out for a query.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time-out for a batch, which is more work, possibly on a slow disk.
const BATCH_PATIENCE: Duration = Duration::from_secs(120);

/// Time-out for an export, which reads the whole store.
const EXPORT_PATIENCE: Duration = Duration::from_hours(2);

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

pub(in crate::cli) struct Service {
    client: reqwest::Client,
    base: String,
    pid: u32,
    token: String,
    token_file: PathBuf,
    data_dir: PathBuf,
}

/// An error response of the service.
#[derive(Debug, thiserror::Error)]
#[error("the service at {base} responded with {status}: {detail}")]
struct Refused {
    base: String,
    status: StatusCode,
    detail: String,
    lines: Vec<LineView>,
    nats: Option<SourceState>,
    faults: Vec<FaultView>,
}

/// Whether a service accepts events.
#[derive(Debug)]
pub(in crate::cli) struct Ready {
    /// Why not.
    pub(in crate::cli) reason: Option<String>,
    /// The state of its source of events from NATS, if it has one.
    pub(in crate::cli) nats: Option<SourceState>,
}

impl Service {
    pub(super) fn new(config: &Config, note: &Note) -> anyhow::Result<Self> {
        let mut address = note.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        // The service may have been started with different settings. If the check itself fails, assume
        // that our token file exists; reading it then reports the error.
        let ours = config.api.token_file.try_exists().unwrap_or(true);
        let token_file = if ours { config.api.token_file.clone() } else { note.token_file.clone() };
        // A path from the user's own settings may be sent; a path from the note only if the file belongs
        // to the service's user.
        let named = ours && config.api.token_file_is_set;
        if !named && !datadir::may_show(&token_file, &config.data_dir) {
            anyhow::bail!(
                "the data directory {} belongs to another user, and the token file {} does not: set the token file explicitly (api.token_file)",
                config.data_dir.display(),
                token_file.display()
            );
        }
        let token = datadir::read_token(&token_file).with_context(|| {
            format!("the service runs (pid {}), but its API token cannot be read", note.pid)
        })?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::pinned(note.certificate.as_deref())?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_PATIENCE)
            .build()?;
        let data_dir = config.data_dir.clone();
        Ok(Self { client, base: note.base(address), pid: note.pid, token, token_file, data_dir })
    }

    /// Submits a batch. If it is too long for the service's settings, it is submitted in parts.
    pub(super) async fn submit(&self, lines: &[Vec<u8>]) -> anyhow::Result<Vec<LineView>> {
        let mut answers = Vec::with_capacity(lines.len());
        let mut parts = Vec::new();
        let mut next = Some(0..lines.len());
        while let Some(part) = next.take().or_else(|| parts.pop()) {
            let (begin, middle) = (part.start, part.start + part.len() / 2);
            match self.submit_part(&lines[part.clone()]).await {
                Ok(part) => {
                    let stopped = part.iter().any(|line| line.outcome.outcome == NOT_TAKEN);
                    let moved =
                        |line: LineView| LineView { line: line.line + begin as u64, ..line };
                    answers.extend(part.into_iter().map(moved));
                    if stopped {
                        break;
                    }
                }
                Err(error) => match error.downcast::<Refused>() {
                    Ok(refused) if refused.status == StatusCode::PAYLOAD_TOO_LARGE => {
                        if part.len() > 1 {
                            parts.extend([middle..part.end, begin..middle]);
                        } else {
                            answers.push(too_long(begin as u64 + 1, refused));
                        }
                    }
                    Ok(refused) if answers.is_empty() => return Err(refused.into()),
                    // The outcomes so far must still be reported.
                    Ok(refused) => {
                        answers.push(not_taken(begin as u64 + 1, refused.detail));
                        break;
                    }
                    Err(error) if answers.is_empty() => return Err(error),
                    Err(error) => {
                        answers.push(not_taken(begin as u64 + 1, format!("{error:#}")));
                        break;
                    }
                },
            }
        }
        Ok(answers)
    }

    async fn submit_part(&self, lines: &[Vec<u8>]) -> anyhow::Result<Vec<LineView>> {
        let body = lines.join(&b'\n');
        let answer = match self.send(Method::POST, "/v1/events", NDJSON, body, BATCH_PATIENCE).await
        {
            Ok(answer) => answer,
            Err(error) => match error.downcast::<Refused>() {
                // The lines accepted before the error stay accepted and must be reported.
                Ok(refused) if !refused.lines.is_empty() => return Ok(broken_off(refused)),
                Ok(refused) => return Err(refused.into()),
                Err(error) => return Err(error),
            },
        };
        answer
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).context("the service's response is malformed"))
            .collect()
    }

    pub(in crate::cli) async fn queue(&self) -> anyhow::Result<QueueView> {
        self.get("/v1/queue").await
    }

    pub(super) async fn list(&self, listing: &Listing) -> anyhow::Result<PageView> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &listing.limit.to_string());
        for (name, value) in [
            ("state", &listing.state),
            ("destination", &listing.selectors.destination),
            ("jobId", &listing.selectors.job_id),
            ("jobIdFs", &listing.selectors.job_id_fs),
            ("errorKind", &listing.selectors.error_kind),
            ("since", &listing.selectors.since),
            ("until", &listing.selectors.until),
            ("endedSince", &listing.selectors.ended_since),
            ("endedUntil", &listing.selectors.ended_until),
            ("cursor", &listing.cursor),
        ] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        self.get(&format!("/v1/callbacks?{}", query.finish())).await
    }

    pub(super) async fn one(&self, id: CallbackId) -> anyhow::Result<Option<CallbackView>> {
        let unknown = |error: &anyhow::Error| {
            error.downcast_ref::<Refused>().is_some_and(|it| it.status == StatusCode::NOT_FOUND)
        };
        match self.get(&format!("/v1/callbacks/{id}")).await {
            Err(error) if unknown(&error) => Ok(None),
            found => found.map(Some),
        }
    }

    pub(super) async fn act<T: DeserializeOwned>(
        &self,
        action: Action,
        request: &ActionRequest,
    ) -> anyhow::Result<T> {
        let path = match action {
            Action::Replay => "/v1/callbacks/replay",
            Action::Cancel => "/v1/callbacks/cancel",
            Action::RetryNow => "/v1/callbacks/retry-now",
        };
        self.call(Method::POST, path, Some(request), BATCH_PATIENCE).await
    }

    pub(super) async fn pause(
        &self,
        destination: &str,
        paused: bool,
    ) -> anyhow::Result<DestinationView> {
        let path = if paused { "/v1/destinations/pause" } else { "/v1/destinations/resume" };
        let request = DestinationRequest { destination: destination.into() };
        self.call(Method::POST, path, Some(&request), PATIENCE).await
    }

    pub(super) async fn cancel(&self, id: CallbackId) -> anyhow::Result<()> {
        let path = format!("/v1/callbacks/{id}/cancel");
        self.call::<CallbackView>(Method::POST, &path, None::<&()>, PATIENCE).await.map(drop)
    }

    /// An export as a file, and the number of callbacks in it.
    pub(in crate::cli) async fn export(&self) -> anyhow::Result<(File, u64)> {
        let export: ExportView =
            self.call(Method::POST, "/v1/export", None::<&()>, EXPORT_PATIENCE).await?;
        let context = || format!("cannot read the service's export {}", export.file);
        let file = datadir::take_export(&self.data_dir, &export.file).with_context(context)?;
        Ok((file, export.callbacks))
    }

    /// Its URL, without a path.
    pub(in crate::cli) fn base(&self) -> &str {
        &self.base
    }

    /// The path of a link that signs in to the operator's page.
    pub(in crate::cli) async fn sign_in(&self) -> anyhow::Result<String> {
        let made: SignInView =
            self.call(Method::POST, "/v1/sign-in", None::<&()>, PATIENCE).await?;
        Ok(made.path)
    }

    /// Makes it reload its settings. Returns what has changed, or the errors.
    pub(in crate::cli) async fn reload(&self) -> anyhow::Result<Reloaded> {
        match self.call(Method::POST, "/v1/reload", None::<&()>, BATCH_PATIENCE).await {
            Ok(view) => Ok(Ok(view)),
            Err(error) => match error.downcast::<Refused>() {
                Ok(refused) if !refused.faults.is_empty() => Ok(Err(refused.faults)),
                Ok(refused) => Err(refused.into()),
                Err(error) => Err(error),
            },
        }
    }

    /// Whether it accepts events.
    pub(in crate::cli) async fn ready(&self) -> anyhow::Result<Ready> {
        #[derive(serde::Deserialize)]
        struct Answer {
            nats: Option<SourceState>,
        }
        match self.get::<Answer>("/readyz").await {
            Ok(Answer { nats }) => Ok(Ready { reason: None, nats }),
            Err(error) => {
                let Refused { detail, nats, .. } = error.downcast::<Refused>()?;
                Ok(Ready { reason: Some(detail), nats })
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, None::<&()>, PATIENCE).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        patience: Duration,
    ) -> anyhow::Result<T> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let answer = self.send(method, path, JSON, body, patience).await?;
        serde_json::from_slice(&answer)
            .with_context(|| format!("unexpected response from {}", self.base))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
        patience: Duration,
    ) -> anyhow::Result<Vec<u8>> {
        let exchange = async {
            let request = self.client.request(method, format!("{}{path}", self.base));
            let request = request.bearer_auth(&self.token).header("content-type", kind).body(body);
            let response = request.send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        };
        let (status, body) = match tokio::time::timeout(patience, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let context = format!(
                    "the service (pid {}) holds the data directory, but does not respond at {}: it is shutting down, or another program listens there; try again, and see its log",
                    self.pid, self.base
                );
                return Err(anyhow::Error::from(error.without_url()).context(context));
            }
            Err(_) => anyhow::bail!(
                "the service at {} (pid {}) has not responded within {} s: it hangs or is overloaded; try again, and see its log",
                self.base,
                self.pid,
                patience.as_secs()
            ),
        };
        if status.is_success() {
            return Ok(body.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            anyhow::bail!(
                "the service at {} rejects the token in {}: it was started with another api.token_file, or the file was replaced since",
                self.base,
                self.token_file.display()
            );
        }
        let problem: Option<Problem> = serde_json::from_slice(&body).ok();
        let detail = "the body of the response is not a problem document";
        let mut refused = Refused {
            base: self.base.clone(),
            status,
            detail: detail.into(),
            lines: Vec::new(),
            nats: None,
            faults: Vec::new(),
        };
        if let Some(Problem { detail, lines, nats, faults, .. }) = problem {
            refused = Refused { detail, lines, nats, faults, ..refused };
        }
        Err(refused.into())
    }
}

/// The outcome of a line that is too long for the service.
fn too_long(line: u64, refused: Refused) -> LineView {
    let outcome = OutcomeView { outcome: "refused".into(), id: None, reason: Some(refused.detail) };
    LineView { line, outcome }
}

/// The outcome of the first line that the service did not accept.
fn not_taken(line: u64, why: String) -> LineView {
    let outcome = OutcomeView { outcome: NOT_TAKEN.into(), id: None, reason: Some(why) };
    LineView { line, outcome }
}

/// The outcomes before the line at which a batch was interrupted, and that line with the reason.
fn broken_off(mut refused: Refused) -> Vec<LineView> {
    let mut lines = std::mem::take(&mut refused.lines);
    let line = lines.last().map_or(0, |line| line.line) + 1;
    lines.push(not_taken(line, refused.detail));
    lines
}
