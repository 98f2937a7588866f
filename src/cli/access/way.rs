//! Finding the way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::{listing::Listing, service::Service, store::Store};
use crate::{
    api::view::{CallbackView, LineView, PageView, QueueView, ReplayRequest, ReplayView},
    callback::CallbackId,
    config::Config,
    datadir::{DataDir, DataDirError, Holder, LOCK_PAUSE, Note},
};

/// How long the data directory is waited for while somebody has it who does not listen: a
/// service that starts, or another command.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// What a command wants of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Purpose {
    /// It only reads, and does so also where nothing can be written.
    Look,
    /// It changes what is there.
    Change,
    /// It makes the directory where there is none. Who looks at a queue has most likely named the
    /// wrong one then.
    Add,
}

/// The way to the callbacks.
pub(in crate::cli) enum Access {
    Service(Box<Service>),
    Store(Box<Store>),
}

impl Access {
    /// Finds the way for the subcommand `command`.
    pub(in crate::cli) async fn find(
        config: &Config,
        command: &str,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        if purpose != Purpose::Add && !is_there(config)? {
            bail!(
                "there is no data directory {}: is it the right one (data_dir, --config, the folder you are in)?",
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

    /// Hands in events, one a line; the answers bear the lines' numbers within `lines`.
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

    /// One callback; `None` where there is none with this id.
    pub(in crate::cli) async fn one(&self, id: CallbackId) -> anyhow::Result<Option<CallbackView>> {
        match self {
            Self::Service(service) => service.one(id).await,
            Self::Store(store) => store.one(id).await,
        }
    }

    pub(in crate::cli) async fn replay(
        &self,
        request: &ReplayRequest,
    ) -> anyhow::Result<ReplayView> {
        match self {
            Self::Service(service) => service.replay(request).await,
            Self::Store(store) => store.replay(request).await,
        }
    }

    pub(in crate::cli) async fn cancel(&self, id: CallbackId) -> anyhow::Result<()> {
        match self {
            Self::Service(service) => service.cancel(id).await,
            Self::Store(store) => store.cancel(id).await,
        }
    }
}

/// Whether there is a data directory; what cannot be reached may well be there.
fn is_there(config: &Config) -> anyhow::Result<bool> {
    config.data_dir.try_exists().with_context(|| {
        format!("the data directory {} cannot be reached (data_dir)", config.data_dir.display())
    })
}

fn busy(config: &Config, holder: Option<&Holder>) -> String {
    let data_dir = config.data_dir.display();
    match holder {
        Some(holder) if holder.serves() => format!(
            "the service on {data_dir} (pid {}) is just starting or ending and does not answer yet: try again in a moment",
            holder.pid
        ),
        Some(holder) => {
            format!("{holder} works on {data_dir} just now: try again when it has ended")
        }
        None => format!(
            "another process has {data_dir} and does not say where it listens: try again in a moment"
        ),
    }
}

/// What runs on the data directory.
pub(in crate::cli) enum Running {
    /// Nothing that serves.
    Not,
    /// A service that does not listen yet, or not any more.
    Silent(Holder),
    /// A service that listens.
    Listening(Box<Service>, Note),
}

/// Finds out what runs.
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
