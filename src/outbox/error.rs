//! Errors of the outbox.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::record::CodecError;

/// The result of the outbox's functions.
pub type Result<T> = std::result::Result<T, OutboxError>;

/// An error of the outbox. Every caller whose write was in the same batch gets a clone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboxError {
    /// `outbox.max_pending` is reached. The error is gone when callbacks end.
    #[error("{pending} callbacks are pending and outbox.max_pending is {max}")]
    Full {
        /// How many are pending now.
        pending: u64,
        /// The setting.
        max: u64,
    },
    /// The data disk is nearly full. Delivery continues.
    #[error("{free} bytes are free on the data disk and outbox.min_free_bytes is {min}")]
    DiskLow {
        /// Free space in bytes.
        free: u64,
        /// The setting.
        min: u64,
    },
    /// A write or sync failed earlier, so the content of the disk is unknown until the store is opened
    /// again.
    #[error("the store at {} stopped after an error, restart the service: {reason}", dir.display())]
    Stopped {
        /// The store's directory.
        dir: PathBuf,
        /// The error that stopped it.
        reason: Arc<str>,
    },
    /// The store cannot be reached at the moment. Nothing was changed.
    #[error("the store cannot be reached: {0}")]
    Unreachable(Arc<str>),
    /// The connection to the store broke during a write, which may have been made or not. The same call may
    /// be repeated.
    #[error(
        "the connection to the store broke during a write, which may have been made or not: {0}"
    )]
    Unsure(Arc<str>),
    /// The destination is not this instance's any more: what it has claimed of it does not count.
    #[error("another instance delivers to this destination now")]
    Lost,
    /// The store was closed.
    #[error("the outbox is closed")]
    Closed,
    /// The store cannot be opened.
    #[error("the store at {} cannot be opened: {reason}", dir.display())]
    CannotOpen {
        /// The store's directory.
        dir: PathBuf,
        /// The error of the operating system or of the engine.
        reason: Arc<str>,
    },
    /// The store is damaged. Nothing in it was changed.
    #[error(
        "the store at {} is damaged: {reason}. Nothing in it was changed. To recover: `export --file callbacks.ndjson` \
         writes what can still be read; then move {} away, and `import --file callbacks.ndjson`",
        dir.display(), dir.display()
    )]
    Damaged {
        /// The store's directory.
        dir: PathBuf,
        /// The problem and the file.
        reason: Arc<str>,
    },
    /// The engine reports damage.
    #[error("the store is damaged: {0}")]
    CorruptPage(Arc<str>),
    /// A later version wrote the store. Nothing in it was changed.
    #[error(
        "the store at {} has format {found}, and this version supports up to {known}: \
         use the version that wrote it, or a later one", dir.display()
    )]
    NewerFormat {
        /// The store's directory.
        dir: PathBuf,
        /// The format that it has.
        found: u32,
        /// The latest format that this version supports.
        known: u32,
    },
    /// A stored row cannot be read.
    #[error("a stored row cannot be read ({key}): {reason}")]
    UnreadableRow {
        /// The row's key, in hex.
        key: String,
        /// The reason.
        reason: Arc<str>,
    },
    /// The engine failed.
    #[error("the store failed: {0}")]
    Engine(Arc<str>),
}

impl OutboxError {
    /// Whether the error is temporary: when callbacks end, space is freed, or the store can be reached again.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::DiskLow { .. }) || self.is_away()
    }

    /// Whether the store could not be reached, so that other calls would fail in the same way.
    pub const fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unsure(_))
    }

    /// The same error about the store in `dir` instead of its private copy in `copy`.
    #[must_use]
    pub fn said_of(mut self, dir: &Path, copy: &Path) -> Self {
        let [name, copied] = [dir, copy].map(|path| path.display().to_string());
        match &mut self {
            Self::Stopped { dir: at, reason }
            | Self::CannotOpen { dir: at, reason }
            | Self::Damaged { dir: at, reason } => {
                dir.clone_into(at);
                *reason = reason.replace(&copied, &name).into();
            }
            Self::NewerFormat { dir: at, .. } => dir.clone_into(at),
            Self::CorruptPage(reason) | Self::Engine(reason) => {
                *reason = reason.replace(&copied, &name).into();
            }
            Self::Full { .. }
            | Self::DiskLow { .. }
            | Self::Unreachable(_)
            | Self::Unsure(_)
            | Self::Lost
            | Self::Closed
            | Self::UnreadableRow { .. } => {}
        }
        self
    }
}

impl From<CodecError> for OutboxError {
    fn from(error: CodecError) -> Self {
        Self::Engine(error.to_string().into())
    }
}
