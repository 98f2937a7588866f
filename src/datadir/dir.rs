//! The lock on a data directory, and what is in it.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use data_encoding::BASE64URL_NOPAD;

use crate::files::{self, replace, replace_secret};

use super::{
    error::{DataDirError, Holder, Note, SERVE, TokenError},
    owner::{self, close_to_others, foreign_owner, refuse_planted},
    token::TOKEN_KEY,
};

/// The file that is locked.
pub(super) const LOCK: &str = "lock";
/// The file that names the process that has locked it. On Windows, a locked file cannot be read by others.
const HOLDER: &str = if cfg!(windows) { "lock.holder" } else { LOCK };
/// The file in which a running service publishes its address.
const NOTE: &str = "service.json";
const OUTBOX: &str = "outbox";

/// Prefix of the names of exports that a service has written.
pub const EXPORT: &str = "export-";

/// Interval between two attempts to lock.
pub const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A data directory, locked until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    pub(super) path: PathBuf,
    pub(super) writable: bool,
    /// `None` if there is no lock file and it cannot be created.
    pub(super) _lock: Option<File>,
}

impl DataDir {
    /// Creates the directory if needed, and locks it for the subcommand `command`.
    pub fn open(path: &Path, command: &str) -> Result<Self, DataDirError> {
        // Without a slash at its end, which would hide that it is a symbolic link.
        let path: &Path = &path.components().collect::<PathBuf>();
        let unusable = |error| unusable(path, path, error);
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => return Err(DataDirError::Link(path.to_owned())),
            Ok(found) if !found.is_dir() => {
                return Err(DataDirError::NotADirectory(path.to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files::create_private_folders(path).map_err(unusable)?;
            }
            Err(error) => return Err(unusable(error)),
        }
        let lock = path.join(LOCK);
        let foreign = foreign_owner(path);
        if foreign.is_none() {
            refuse_planted(path, OUTBOX)?;
        }
        let mut file = File::options()
            .create(foreign.is_none())
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock)
            .map_err(|error| match (foreign, error.kind()) {
                (Some(owner), io::ErrorKind::NotFound) => {
                    DataDirError::Foreign { path: path.to_owned(), owner }
                }
                _ => self::unusable(path, &lock, error),
            })?;
        match file.try_lock() {
            Ok(()) if let Some(owner) = foreign => {
                Err(DataDirError::Foreign { path: path.to_owned(), owner })
            }
            Ok(()) => {
                let holder = format!("{} {command}\n", std::process::id());
                close_to_others(path).map_err(unusable)?;
                let named = if HOLDER == LOCK {
                    file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()))
                } else {
                    fs::write(path.join(HOLDER), holder)
                };
                named.map_err(|error| self::unusable(path, &lock, error))?;
                Ok(Self { path: path.to_owned(), writable: true, _lock: Some(file) })
            }
            Err(TryLockError::WouldBlock) => Err(in_use(path)),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// The same for the service: waits for up to `patience` for a command, but not for another service.
    pub fn open_to_serve(path: &Path, patience: Duration) -> Result<Self, DataDirError> {
        let give_up = Instant::now() + patience;
        let serves = |holder: &Option<Holder>| holder.as_ref().is_some_and(Holder::serves);
        loop {
            match Self::open(path, SERVE) {
                Err(DataDirError::InUse { holder, note: None, .. })
                    if !serves(&holder) && Instant::now() < give_up =>
                {
                    std::thread::sleep(LOCK_PAUSE);
                }
                opened => return opened,
            }
        }
    }

    /// Whether anything can be written in it.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Path of the store.
    pub fn outbox(&self) -> PathBuf {
        self.path.join(OUTBOX)
    }

    /// Removes exports that were not fetched.
    pub fn remove_exports(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(EXPORT)
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(error.message = %error, "an old export cannot be removed");
            }
        }
    }

    /// Publishes the address of the service; see [`note`].
    pub fn write_note(&self, note: &Note) -> Result<(), DataDirError> {
        let path = self.path.join(NOTE);
        let text = serde_json::to_string(note).unwrap_or_default();
        replace(&path, &text).map_err(|error| DataDirError::Unusable { path, error })
    }

    /// Removes the note.
    pub fn remove_note(&self) {
        if let Err(error) = files::remove_file(&self.path.join(NOTE)) {
            tracing::debug!(error.message = %error, "the service's note cannot be removed");
        }
    }

    /// Creates the API's token with 256 random bits if there is none.
    pub fn create_token(&self, path: &Path) -> Result<(), DataDirError> {
        let there = path.try_exists().map_err(|error| {
            let error = TokenError::Unreadable { path: path.to_owned(), error };
            DataDirError::Token { key: TOKEN_KEY, error }
        })?;
        if !there {
            let mut bits = [0_u8; 32];
            ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bits)
                .map_err(|_| io::Error::other("the system has no random bytes"))
                .and_then(|()| replace_secret(path, &(BASE64URL_NOPAD.encode(&bits) + "\n")))
                .map_err(|error| DataDirError::Unusable { path: path.to_owned(), error })?;
        }
        Ok(())
    }
}

/// The error for a file of the data directory. It names the owner if that is another user.
fn unusable(dir: &Path, path: &Path, error: io::Error) -> DataDirError {
    match foreign_owner(dir) {
        Some(owner) if error.kind() == io::ErrorKind::PermissionDenied => {
            DataDirError::Closed { path: dir.to_owned(), owner }
        }
        _ => DataDirError::Unusable { path: path.to_owned(), error },
    }
}

/// The error for a directory that is locked.
pub(super) fn in_use(path: &Path) -> DataDirError {
    let holder = holder(&path.join(HOLDER));
    // A note left by a killed process does not describe this one.
    let note =
        note(path).filter(|note| holder.as_ref().is_none_or(|holder| holder.pid == note.pid));
    DataDirError::InUse { path: path.to_owned(), holder, note }
}

/// The process that is named in this file.
fn holder(file: &Path) -> Option<Holder> {
    let text = fs::read_to_string(file).ok()?;
    let (pid, command) = text.trim_end().split_once(' ')?;
    Some(Holder { pid: pid.parse().ok()?, command: command.into() })
}

/// The note of the service that runs on the directory.
fn note(data_dir: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(data_dir.join(NOTE)).ok()?).ok()
}

/// Opens an export that the service reports to have written in `data_dir`, and removes it from the
/// folder. The service's user must not make another user's command (perhaps root's) read or remove
/// another file. Therefore only the file name of the response is used, and the file must be a regular
/// file of the folder's owner.
pub fn take_export(data_dir: &Path, said: &str) -> io::Result<File> {
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    let Some(name) = Path::new(said).file_name().and_then(|name| name.to_str()) else {
        return refused("it has no name");
    };
    if !name.starts_with(EXPORT) {
        return refused("its name is not that of an export");
    }
    let path = data_dir.join(name);
    let file = owner::open_own(&path)?;
    if !owner::is_plain_file_of(&file.metadata()?, &fs::symlink_metadata(data_dir)?) {
        return refused("it is not a regular file of the data directory's owner");
    }
    files::remove_file(&path)?;
    Ok(file)
}
