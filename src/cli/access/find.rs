//! Finds the service, or opens the store if no service runs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

use super::{listing::Listing, service::Service, store::Store};
use crate::{
    api::{
        action_view::ActionRequest,
        destination_view::DestinationView,
        view::{CallbackView, LineView, PageView, QueueView},
    },
    callback::CallbackId,
    cli::output::say,
    config::Config,
    datadir::{DataDir, DataDirError, Holder, LOCK_PAUSE, Note},
    select::{Action, ActionResult},
};

/// How long to wait for the data directory while a starting service or another command has it locked.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How a command uses the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Purpose {
    /// It reads, even if nothing can be written.
    Look,
    /// It changes an existing store.
    Change,
    /// It creates the directory if needed. (A query for a missing directory most likely names the wrong
    /// one.)
    Add,
}

/// Access to the callbacks.
pub(in crate::cli) enum Access {
    Service(Box<Service>),
    Store(Box<Store>),
}

impl Access {
    /// Finds the service or opens the store, for the subcommand `command`.
    pub(in crate::cli) async fn find(
        config: &Config,
        command: &str,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        if purpose != Purpose::Add && !is_there(config)? {
            bail!(
                "the data directory {} does not exist; check data_dir, --config and the working directory",
                config.data_dir.display()
            );
        }
        let give_up = Instant::now() + LOCK_PATIENCE;
        loop {
            let opened = match purpose {
                Purpose::Look => DataDir::open_to_look(&config.data_dir, command),
                Purpose::Change | Purpose::Add => DataDir::open(&config.data_dir, command),
            };
            match opened {
                Ok(lock) => {
                    let store = match purpose {
                        Purpose::Look => Store::open_to_look(config, lock)?,
                        Purpose::Change | Purpose::Add => Store::open(config, lock)?,
                    };
                    return Ok(Self::Store(Box::new(store)));
                }
                Err(DataDirError::InUse { note: Some(note), .. }) => {
                    return Ok(Self::Service(Box::new(Service::new(config, &note)?)));
                }
                Err(DataDirError::InUse { .. }) if Instant::now() < give_up => {
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                Err(DataDirError::InUse { holder, .. }) => bail!(busy(config, holder.as_ref())),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Submits events, one per line. The outcomes have the line numbers within `lines`.
    pub(in crate::cli) async fn submit(&self, lines: &[Vec<u8>]) -> anyhow::Result<Vec<LineView>> {
        match self {
            Self::Service(service) => service.submit(lines).await,
            Self::Store(store) => store.submit(lines).await,
        }
    }

    pub(in crate::cli) async fn queue(&self) -> anyhow::Result<QueueView> {
        match self {
            Self::Service(service) => service.queue().await,
            Self::Store(store) => store.queue().await,
        }
    }

    pub(in crate::cli) async fn list(&self, listing: &Listing) -> anyhow::Result<PageView> {
        match self {
            Self::Service(service) => service.list(listing).await,
            Self::Store(store) => store.list(listing).await,
        }
    }

    /// One callback; `None` if there is none with this id.
    pub(in crate::cli) async fn one(&self, id: CallbackId) -> anyhow::Result<Option<CallbackView>> {
        match self {
            Self::Service(service) => service.one(id).await,
            Self::Store(store) => store.one(id).await,
        }
    }

    pub(in crate::cli) async fn act<T: DeserializeOwned + From<ActionResult>>(
        &self,
        action: Action,
        request: &ActionRequest,
    ) -> anyhow::Result<T> {
        match self {
            Self::Service(service) => service.act(action, request).await,
            Self::Store(store) => store.act(action, request).await,
        }
    }

    /// Pauses or resumes a destination.
    pub(in crate::cli) async fn pause(
        &self,
        destination: &str,
        paused: bool,
    ) -> anyhow::Result<DestinationView> {
        match self {
            Self::Service(service) => service.pause(destination, paused).await,
            Self::Store(store) => store.pause(destination, paused).await,
        }
    }

    pub(in crate::cli) async fn cancel(&self, id: CallbackId) -> anyhow::Result<()> {
        match self {
            Self::Service(service) => service.cancel(id).await,
            Self::Store(store) => store.cancel(id).await,
        }
    }
}

/// Whether the data directory exists. Fails if that is unknown.
fn is_there(config: &Config) -> anyhow::Result<bool> {
    config.data_dir.try_exists().with_context(|| {
        format!("the data directory {} cannot be reached (data_dir)", config.data_dir.display())
    })
}

fn busy(config: &Config, holder: Option<&Holder>) -> String {
    let data_dir = config.data_dir.display();
    match holder {
        Some(holder) if holder.serves() => format!(
            "the service on {data_dir} (pid {}) is starting up or shutting down: try again in a moment",
            holder.pid
        ),
        Some(holder) => {
            format!("{holder} is using {data_dir}: try again when it has ended")
        }
        None => format!(
            "another process uses {data_dir} and has not published its address: try again in a moment"
        ),
    }
}

/// The service on the data directory.
pub(in crate::cli) enum Running {
    /// No service runs.
    Not,
    /// It is starting up or shutting down.
    Silent(Holder),
    /// It is listening.
    Listening(Box<Service>, Note),
}

/// The service that is listening; `None`, after saying so, if none runs.
pub(in crate::cli) fn listening(config: &Config) -> anyhow::Result<Option<Box<Service>>> {
    match running(config)? {
        Running::Listening(service, _) => Ok(Some(service)),
        Running::Not => {
            say("not running");
            Ok(None)
        }
        Running::Silent(holder) => bail!(busy(config, Some(&holder))),
    }
}

/// Finds the service.
pub(in crate::cli) fn running(config: &Config) -> anyhow::Result<Running> {
    if !is_there(config)? {
        return Ok(Running::Not);
    }
    match DataDir::open_to_look(&config.data_dir, "status") {
        Ok(_) | Err(DataDirError::Foreign { .. }) => Ok(Running::Not),
        Err(DataDirError::InUse { note: Some(note), .. }) => {
            Ok(Running::Listening(Box::new(Service::new(config, &note)?), note))
        }
        Err(DataDirError::InUse { holder: Some(holder), .. }) if holder.serves() => {
            Ok(Running::Silent(holder))
        }
        Err(DataDirError::InUse { .. }) => Ok(Running::Not),
        Err(error) => Err(error.into()),
    }
}
