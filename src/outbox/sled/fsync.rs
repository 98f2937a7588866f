//! Making files and directory entries durable.

use std::fs::File;

use crate::outbox::OutboxError;

/// Syncs the log of the store in `dir`.
pub(super) fn sync_log(dir: &std::path::Path) -> std::io::Result<()> {
    File::options().write(true).open(dir.join("db"))?.sync_data()?;
    let blobs = dir.join("blobs");
    if blobs.try_exists()? { sync_dir(&blobs) } else { Ok(()) }
}

/// Syncs the entries of a directory, on systems that support it.
pub(super) fn sync_dir(dir: &std::path::Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

impl From<std::io::Error> for OutboxError {
    fn from(error: std::io::Error) -> Self {
        Self::Engine(error.to_string().into())
    }
}
