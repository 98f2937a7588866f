//! Opening a store, whichever one is configured. Everything above the outbox uses these functions, and no
//! store by its name.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    error::Result,
    interface::Outbox,
    postgres::{self, PostgresOutbox},
    record::Record,
    sled::{self, SledOutbox},
    transfer::Identity,
};
use crate::clock::SharedClock;

pub use super::sled::{CopyError, Salvage};

/// Which store holds the callbacks, with its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreSettings {
    /// The embedded store, in the data directory.
    Sled(sled::Settings),
    /// A schema of a PostgreSQL database.
    Postgres(postgres::Settings),
}

/// A store that was opened.
pub struct Opened {
    /// The store.
    pub outbox: Arc<dyn Outbox>,
    /// It was migrated from an older format, which older versions cannot read.
    pub migrated: bool,
    /// Callbacks with an outcome that an earlier process had received, and was killed before it was
    /// committed. It is committed now.
    pub recovered: Vec<Record>,
}

impl StoreSettings {
    /// Opens the store, creates it if there is none, and migrates it to this version's format. `dir` is its
    /// place in the data directory, and `clock` the machine's, which a store that is elsewhere does not use.
    pub fn open(&self, dir: &Path, clock: SharedClock) -> Result<Opened> {
        match self {
            Self::Sled(settings) => {
                let outbox = SledOutbox::open(dir, settings.clone(), clock)?;
                let (migrated, recovered) = (outbox.was_migrated(), outbox.recovered().to_vec());
                Ok(Opened { outbox: Arc::new(outbox), migrated, recovered })
            }
            Self::Postgres(settings) => {
                Ok(opened(PostgresOutbox::open(settings.clone(), folder(dir))?))
            }
        }
    }

    /// Inspects a store that is on a server, without changing anything. Returns one line for each finding;
    /// the error is the one with which opening it would fail.
    pub fn examine(&self) -> Result<Vec<String>> {
        match self {
            Self::Sled(_) => Ok(Vec::new()),
            Self::Postgres(settings) => PostgresOutbox::examine(settings),
        }
    }

    /// Where the callbacks are, if not in the data directory.
    pub fn elsewhere(&self) -> Option<String> {
        match self {
            Self::Sled(_) => None,
            Self::Postgres(settings) => Some(settings.place()),
        }
    }

    /// Opens the store for a command. One that is elsewhere may be in use by others, and nothing is delivered.
    pub fn open_for_command(&self, dir: &Path, clock: SharedClock) -> Result<Opened> {
        match self {
            Self::Sled(_) => self.open(dir, clock),
            Self::Postgres(settings) => {
                Ok(opened(PostgresOutbox::open_for_command(settings.clone(), folder(dir))?))
            }
        }
    }

    /// Creates and opens an empty store, where none may exist. With an identity, the callbacks of the
    /// store with this identity can be imported with their ids.
    pub fn create(
        &self,
        dir: &Path,
        identity: Option<Identity>,
        clock: SharedClock,
    ) -> Result<Arc<dyn Outbox>> {
        match self {
            Self::Sled(settings) => {
                Ok(Arc::new(SledOutbox::create(dir, identity, settings.clone(), clock)?))
            }
            Self::Postgres(settings) => {
                Ok(Arc::new(PostgresOutbox::create(settings.clone(), folder(dir), identity)?))
            }
        }
    }

    /// Puts a store that is not open in its place.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self {
            Self::Sled(_) => SledOutbox::rename(from, to),
            Self::Postgres(settings) => {
                PostgresOutbox::finish_import(settings).map_err(io::Error::other)
            }
        }
    }

    /// Removes a store that is not open.
    pub fn remove(&self, dir: &Path) -> io::Result<()> {
        match self {
            Self::Sled(_) => SledOutbox::remove(dir),
            // It is not in the directory. Only an interrupted import is removed.
            Self::Postgres(settings) => {
                PostgresOutbox::remove_import(settings).map_err(io::Error::other)
            }
        }
    }

    /// The file that must be moved together with the store.
    pub fn file_beside(&self, dir: &Path) -> PathBuf {
        match self {
            Self::Sled(_) => SledOutbox::witness(dir),
            Self::Postgres(_) => dir.to_owned(),
        }
    }

    /// Copies a store that is not open, to read it where it cannot be written.
    pub fn copy(&self, dir: &Path, to: &Path) -> std::result::Result<(), CopyError> {
        match self {
            Self::Sled(_) => SledOutbox::copy(dir, to),
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Reads what can be read of a store that cannot be opened.
    pub fn salvage(&self, dir: &Path) -> io::Result<Salvage> {
        match self {
            Self::Sled(_) => Salvage::read(dir),
            Self::Postgres(_) => Err(io::Error::other("PostgreSQL has its own ways of recovery")),
        }
    }
}

fn opened(outbox: PostgresOutbox) -> Opened {
    let migrated = outbox.was_migrated();
    Opened { outbox: Arc::new(outbox), migrated, recovered: Vec::new() }
}

/// The data directory, in which a store has its place.
fn folder(dir: &Path) -> &Path {
    dir.parent().unwrap_or(dir)
}
