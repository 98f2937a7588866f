//! Opening a data directory for reading, even if nothing can be written: on a file system that is full,
//! or that was remounted read-only after a disk error.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::{
    dir::{DataDir, LOCK, in_use},
    error::DataDirError,
    owner::foreign_owner,
};

impl DataDir {
    /// The same as [`DataDir::open`] for a command that only reads. A directory that exists and cannot
    /// be written is also locked; see [`DataDir::is_writable`].
    pub fn open_to_look(path: &Path, command: &str) -> Result<Self, DataDirError> {
        match Self::open(path, command) {
            Err(refused @ DataDirError::Unusable { .. }) => unwritable(path, refused),
            opened => opened,
        }
    }
}

/// Whether the error means that nothing can be written, although reading may work.
pub fn cannot_write(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
    )
}

/// Locks a directory without writing. Returns `refused` if it cannot be read either.
fn unwritable(path: &Path, refused: DataDirError) -> Result<DataDir, DataDirError> {
    let path: PathBuf = path.components().collect();
    let cannot_write =
        matches!(&refused, DataDirError::Unusable { error, .. } if cannot_write(error));
    if !cannot_write || !fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
        return Err(refused);
    }
    let lock = match File::open(path.join(LOCK)) {
        Ok(lock) => Some(lock),
        // A process that uses the directory has created the lock file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => return Err(refused),
    };
    // An exclusive lock requires a file that is open for writing on some network file systems.
    match lock.as_ref().map_or(Ok(()), File::try_lock_shared) {
        Ok(()) => match foreign_owner(&path) {
            Some(owner) => Err(DataDirError::Foreign { path, owner }),
            None => Ok(DataDir { path, writable: false, _lock: lock }),
        },
        Err(TryLockError::WouldBlock) => Err(in_use(&path)),
        Err(TryLockError::Error(_)) => Err(refused),
    }
}
