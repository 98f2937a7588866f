//! The way to the callbacks: through the running service's API, or, where none runs, through
//! the store itself, under its lock.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::{
        Problem,
        view::{
            CallbackView, FilterView, LineView, OutcomeView, PageView, QueueView, ReplayRequest,
            ReplayView,
        },
    },
    callback::CallbackId,
    clock::{SharedClock, SystemClock},
    config::Config,
    datadir::{self, DataDir, DataDirError, Note},
    event::Malformed,
    intake::Intake,
    outbox::{Cancelled, Outbox, Query, sled::SledOutbox},
    select::{self, Selection},
};

/// How long the service may take to answer. A batch is large and its disk may be slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which callbacks a listing is of, as the command line has them.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing {
    pub(super) state: Option<String>,
    pub(super) destination: Option<String>,
    pub(super) job_id: Option<String>,
    pub(super) since: Option<String>,
    pub(super) limit: usize,
    pub(super) cursor: Option<String>,
}

/// The way to the callbacks.
pub(super) enum Access {
    Service(Service),
    Store(Box<Store>),
}

/// The API of the running service.
pub(super) struct Service {
    client: reqwest::Client,
    base: String,
    token: String,
}

/// The store, opened by ourselves.
pub(super) struct Store {
    outbox: Arc<dyn Outbox>,
    intake: Intake,
    clock: SharedClock,
    max_event_bytes: usize,
    _lock: DataDir,
}

impl Access {
    /// Finds the way. Where there is no data directory yet, one is only made when `make` says
    /// so: who wants to look at a queue has most likely named the wrong directory.
    pub(super) fn find(config: &Config, make: bool) -> anyhow::Result<Self> {
        if !make && !config.data_dir.exists() {
            bail!(
                "there is no data directory {}: is it the right one (data_dir, --config, the folder you are in)?",
                config.data_dir.display()
            );
        }
        match DataDir::open(&config.data_dir) {
            Ok(lock) => Ok(Self::Store(Box::new(Store::open(config, lock)?))),
            Err(DataDirError::InUse { note, .. }) => {
                Ok(Self::Service(Service::new(config, note.as_ref())?))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Hands in events, one a line; the answers bear the lines' numbers within `lines`.
    pub(super) async fn submit(&self, lines: &[Vec<u8>]) -> anyhow::Result<Vec<LineView>> {
        match self {
            Self::Service(service) => service.submit(lines).await,
            Self::Store(store) => store.submit(lines).await,
        }
    }

    pub(super) async fn queue(&self) -> anyhow::Result<QueueView> {
        match self {
            Self::Service(service) => service.get("/v1/queue").await,
            Self::Store(store) => {
                let now = store.clock.now();
                Ok(QueueView::new(store.outbox.summary(now).await?, now))
            }
        }
    }

    pub(super) async fn list(&self, listing: &Listing) -> anyhow::Result<PageView> {
        match self {
            Self::Service(service) => service.get(&listing_path(listing)).await,
            Self::Store(store) => {
                let selection = Selection::parse(
                    listing.destination.as_deref(),
                    listing.job_id.clone(),
                    listing.since.as_deref(),
                    store.clock.now(),
                )?;
                let query = Query {
                    state: listing.state.as_deref().map(select::parse_state).transpose()?,
                    cursor: listing.cursor.as_deref().map(str::parse).transpose()?,
                    limit: listing.limit,
                    ..selection.query()
                };
                Ok(store.outbox.list(query).await?.into())
            }
        }
    }

    /// One callback; `None` where there is none with this id.
    pub(super) async fn one(&self, id: CallbackId) -> anyhow::Result<Option<CallbackView>> {
        match self {
            Self::Service(service) => match service.get(&format!("/v1/callbacks/{id}")).await {
                Err(error) if is_status(&error, StatusCode::NOT_FOUND) => Ok(None),
                found => found.map(Some),
            },
            Self::Store(store) => Ok(store.outbox.get(id).await?.map(Into::into)),
        }
    }

    pub(super) async fn replay(&self, request: &ReplayRequest) -> anyhow::Result<ReplayView> {
        match self {
            Self::Service(service) => {
                service.call(Method::POST, "/v1/callbacks/replay", Some(request)).await
            }
            Self::Store(store) => store.replay(&request.filter, request.dry_run).await,
        }
    }

    pub(super) async fn cancel(&self, id: CallbackId) -> anyhow::Result<()> {
        match self {
            Self::Service(service) => {
                let path = format!("/v1/callbacks/{id}/cancel");
                service.call::<CallbackView>(Method::POST, &path, None::<&()>).await.map(drop)
            }
            Self::Store(store) => match store.outbox.cancel(id).await? {
                Cancelled::Done => Ok(()),
                Cancelled::Unknown => bail!("there is no callback {id}"),
                Cancelled::NotPending => bail!("{id} is not pending"),
                Cancelled::InFlight => bail!("{id} is being sent"),
            },
        }
    }
}

fn listing_path(listing: &Listing) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &listing.limit.to_string());
    for (name, value) in [
        ("state", &listing.state),
        ("destination", &listing.destination),
        ("jobId", &listing.job_id),
        ("since", &listing.since),
        ("cursor", &listing.cursor),
    ] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    format!("/v1/callbacks?{}", query.finish())
}

/// What the service answered instead of what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the service at {base} answered {status}: {detail}")]
struct Refused {
    base: String,
    status: StatusCode,
    detail: String,
    lines: Vec<LineView>,
}

fn is_status(error: &anyhow::Error, status: StatusCode) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == status)
}

impl Service {
    /// The service that says where it is, or else the one that the settings say.
    pub(super) fn new(config: &Config, note: Option<&Note>) -> anyhow::Result<Self> {
        let mut address = note.map_or(config.api.listen, |note| note.address);
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let token = datadir::read_token(&config.api.token_file)
            .context("a process uses the data directory, but its API token cannot be read")?;
        let settings = crate::delivery::client::Settings {
            connect_timeout: Duration::from_secs(5),
            per_destination: 1,
            ..Default::default()
        };
        let client = crate::delivery::client::build(&settings, Arc::default())?;
        Ok(Self { client, base: format!("http://{address}"), token })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, None::<&()>).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let body = body.map(serde_json::to_vec).transpose()?;
        let kind = "application/json";
        let answer = self.send(method, path, kind, body.unwrap_or_default()).await?;
        serde_json::from_slice(&answer)
            .with_context(|| format!("the answer of {} is not what was asked for", self.base))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Vec<u8>> {
        let failed = || {
            format!(
                "the service that uses the data directory does not answer at {}; if it is just starting or ending, try again",
                self.base
            )
        };
        let response = self
            .client
            .request(method, format!("{}{path}", self.base))
            .timeout(PATIENCE)
            .bearer_auth(&self.token)
            .header("content-type", kind)
            .body(body)
            .send()
            .await
            .map_err(reqwest::Error::without_url)
            .with_context(failed)?;
        let status = response.status();
        let body =
            response.bytes().await.map_err(reqwest::Error::without_url).with_context(failed)?;
        if status.is_success() {
            return Ok(body.into());
        }
        let problem: Option<Problem> = serde_json::from_slice(&body).ok();
        let base = self.base.clone();
        let (detail, lines) = problem.map_or_else(
            || ("and says nothing that this program understands".into(), Vec::new()),
            |problem| (problem.detail, problem.lines),
        );
        Err(Refused { base, status, detail, lines }.into())
    }

    /// Whether it takes events, and why not.
    pub(super) async fn ready(&self) -> anyhow::Result<Result<(), String>> {
        match self.send(Method::GET, "/readyz", "application/json", Vec::new()).await {
            Ok(_) => Ok(Ok(())),
            Err(error) => match error.downcast::<Refused>() {
                Ok(refused) => Ok(Err(refused.detail)),
                Err(error) => Err(error),
            },
        }
    }

    pub(super) async fn queue(&self) -> anyhow::Result<QueueView> {
        self.get("/v1/queue").await
    }

    async fn submit(&self, lines: &[Vec<u8>]) -> anyhow::Result<Vec<LineView>> {
        let body = lines.join(&b'\n');
        let kind = "application/x-ndjson";
        let answer = match self.send(Method::POST, "/v1/events", kind, body).await {
            Ok(answer) => answer,
            Err(error) => match error.downcast::<Refused>() {
                // What was taken before stays taken, and has to be said.
                Ok(refused) if !refused.lines.is_empty() => {
                    let mut lines = refused.lines;
                    let after = lines.last().map_or(0, |line| line.line) + 1;
                    lines.push(LineView {
                        line: after,
                        outcome: OutcomeView {
                            outcome: NOT_TAKEN.into(),
                            id: None,
                            reason: Some(refused.detail),
                        },
                    });
                    return Ok(lines);
                }
                Ok(refused) => return Err(refused.into()),
                Err(error) => return Err(error),
            },
        };
        answer
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).context("the service's answer is broken"))
            .collect()
    }
}

/// The word for the first line of a batch that the service did not take any more.
pub(super) const NOT_TAKEN: &str = "not taken";

impl Store {
    fn open(config: &Config, lock: DataDir) -> anyhow::Result<Self> {
        let clock: SharedClock = Arc::new(SystemClock);
        let outbox: Arc<dyn Outbox> =
            Arc::new(SledOutbox::open(&lock.outbox(), config.outbox.clone(), Arc::clone(&clock))?);
        let intake = Intake::new(
            Arc::clone(&outbox),
            config.egress.clone(),
            config.tracker_template.as_deref(),
        );
        let max_event_bytes = config.api.max_event_bytes;
        Ok(Self { outbox, intake, clock, max_event_bytes, _lock: lock })
    }

    async fn submit(&self, lines: &[Vec<u8>]) -> anyhow::Result<Vec<LineView>> {
        let blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace);
        let numbered: Vec<_> = (1_u64..).zip(lines).filter(|(_, line)| !blank(line)).collect();
        let prepared = numbered
            .iter()
            .map(|(_, line)| {
                if line.len() > self.max_event_bytes {
                    Intake::refuse(Malformed::TooLong(self.max_event_bytes))
                } else {
                    self.intake.prepare(line)
                }
            })
            .collect();
        let outcomes = self.intake.take(prepared).await?;
        let lines = numbered.into_iter().zip(&outcomes);
        Ok(lines.map(|((line, _), outcome)| LineView { line, outcome: outcome.into() }).collect())
    }

    async fn replay(&self, filter: &FilterView, dry_run: bool) -> anyhow::Result<ReplayView> {
        let ids = filter.ids.iter().map(|id| id.parse()).collect::<Result<Vec<_>, _>>()?;
        let selection = Selection::parse(
            filter.destination.as_deref(),
            filter.job_id.clone(),
            filter.since.as_deref(),
            self.clock.now(),
        )?;
        let selection = Selection { ids, ..selection };
        let report = select::replay(&*self.outbox, &selection, dry_run).await?;
        Ok(ReplayView { matched: report.matched, replayed: report.replayed })
    }
}

/// The service that runs on the data directory; `None` where none does.
pub(super) fn running(config: &Config) -> anyhow::Result<Option<(Service, Option<Note>)>> {
    if !Path::new(&config.data_dir).exists() {
        return Ok(None);
    }
    match DataDir::open(&config.data_dir) {
        Ok(_) => Ok(None),
        Err(DataDirError::InUse { note, .. }) => {
            Ok(Some((Service::new(config, note.as_ref())?, note)))
        }
        Err(error) => Err(error.into()),
    }
}
