//! Ownership and permissions of the data directory.

#[cfg(unix)]
use std::fs;
use std::{
    fs::{File, Metadata},
    io,
    path::Path,
};

use super::error::DataDirError;

/// Refuses a directory in which another user may have placed files while it was open to others: checks
/// it and its subfolder.
#[cfg(unix)]
pub(super) fn refuse_planted(dir: &Path, subfolder: &str) -> Result<(), DataDirError> {
    use std::os::unix::fs::MetadataExt as _;
    let own = rustix::process::geteuid().as_raw();
    for folder in [dir.to_owned(), dir.join(subfolder)] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
            if found.is_symlink() || ![own, 0].contains(&found.uid()) {
                return Err(DataDirError::Planted(entry.path()));
            }
        }
    }
    Ok(())
}

/// Permissions are inherited from the folder.
#[cfg(not(unix))]
pub(super) fn refuse_planted(_: &Path, _: &str) -> Result<(), DataDirError> {
    Ok(())
}

/// Whether a command may send the content of this token file to the service on a directory. If the
/// directory belongs to another user, the file must also belong to that user.
#[cfg(unix)]
pub fn may_show(token_file: &Path, data_dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (foreign_owner(data_dir), fs::symlink_metadata(token_file)) {
        (None, _) => true,
        (Some(owner), Ok(file)) => file.is_file() && file.uid() == owner,
        (Some(_), Err(_)) => false,
    }
}

/// Whether a command may send the content of this token file to the service on a directory.
#[cfg(not(unix))]
pub fn may_show(_: &Path, _: &Path) -> bool {
    true
}

/// The owner of the directory, if it is another user.
#[cfg(unix)]
pub(super) fn foreign_owner(path: &Path) -> Option<u32> {
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).ok()?);
    (owner != rustix::process::geteuid().as_raw()).then_some(owner)
}

/// The owner of the directory, if it is another user.
#[cfg(not(unix))]
pub(super) fn foreign_owner(_: &Path) -> Option<u32> {
    None
}

/// Removes the permissions of others on a directory of this user.
#[cfg(unix)]
pub(super) fn close_to_others(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(path)?.permissions().mode();
    let closed = mode & 0o7700;
    if mode & 0o7777 == closed {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(closed))
}

/// Permissions are inherited from the folder.
#[cfg(not(unix))]
pub(super) fn close_to_others(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Opens a file for reading without blocking, unless it is a symbolic link.
#[cfg(unix)]
pub(super) fn open_own(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(open(path, flags, Mode::empty())?))
}

/// Opens a file for reading.
#[cfg(not(unix))]
pub(super) fn open_own(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Whether this is a regular file with one link that belongs to the owner of the folder.
#[cfg(unix)]
pub(super) fn is_plain_file_of(file: &Metadata, folder: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    file.is_file() && file.nlink() == 1 && file.uid() == folder.uid()
}

/// Whether this is a regular file; its ownership is inherited from the folder.
#[cfg(not(unix))]
pub(super) fn is_plain_file_of(file: &Metadata, _: &Metadata) -> bool {
    file.is_file()
}
