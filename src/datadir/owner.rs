//! Whose the data directory is, and who else may reach into it.

#[cfg(unix)]
use std::fs;
use std::{
    fs::{File, Metadata},
    io,
    path::Path,
};

use super::error::DataDirError;

/// In a directory that was open to others, they may have put something where we look: in it, and in
/// its subfolder.
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

/// Its rights are what its folder hands down.
#[cfg(not(unix))]
pub(super) fn refuse_planted(_: &Path, _: &str) -> Result<(), DataDirError> {
    Ok(())
}

/// Whether a command may show what is in this token file to the service that runs on a
/// directory: where that is another user's, only a file of that user is what it wants.
#[cfg(unix)]
pub fn may_show(token_file: &Path, data_dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (foreign_owner(data_dir), fs::symlink_metadata(token_file)) {
        (None, _) => true,
        (Some(owner), Ok(file)) => file.is_file() && file.uid() == owner,
        (Some(_), Err(_)) => false,
    }
}

/// Whether a command may show what is in this token file to the service that runs there.
#[cfg(not(unix))]
pub fn may_show(_: &Path, _: &Path) -> bool {
    true
}

/// Whose the directory is, where it is not ours.
#[cfg(unix)]
pub(super) fn foreign_owner(path: &Path) -> Option<u32> {
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).ok()?);
    (owner != rustix::process::geteuid().as_raw()).then_some(owner)
}

/// Whose the directory is, where it is not ours.
#[cfg(not(unix))]
pub(super) fn foreign_owner(_: &Path) -> Option<u32> {
    None
}

/// Takes others' rights to a directory that we own: it holds what users sent, and the token.
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

/// Its rights are what its folder hands down.
#[cfg(not(unix))]
pub(super) fn close_to_others(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Opens a file for reading, unless its name is a symbolic link's, without waiting for anything.
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

/// Whether this is a regular file with one name that belongs to the owner of the folder.
#[cfg(unix)]
pub(super) fn is_plain_file_of(file: &Metadata, folder: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    file.is_file() && file.nlink() == 1 && file.uid() == folder.uid()
}

/// Whether this is a regular file; whose it is, its folder hands down.
#[cfg(not(unix))]
pub(super) fn is_plain_file_of(file: &Metadata, _: &Metadata) -> bool {
    file.is_file()
}
