//! Making files and directory entries durable.

use std::fs::File;

use crate::outbox::OutboxError;

/// Has the log of the store in `dir` on the disk, as far as it is written.
pub(super) fn sync_log(dir: &std::path::Path) -> std::io::Result<()> {
    File::options().write(true).open(dir.join("db"))?.sync_data()?;
    let blobs = dir.join("blobs");
    if blobs.try_exists()? { sync_dir(&blobs) } else { Ok(()) }
}

/// Makes the entries of a directory durable, where the system has a way to.
pub(super) fn sync_dir(dir: &std::path::Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

impl From<std::io::Error> for OutboxError {
    fn from(error: std::io::Error) -> Self {
        Self::Engine(error.to_string().into())
    }
}
