//! The data directory: the lock that makes it one process's own, the token, and the note in
//! which a running service says where it listens.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

const LOCK: &str = "lock";
const NOTE: &str = "service.json";
const OUTBOX: &str = "outbox";

/// What a running service says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// Its process.
    pub pid: u32,
    /// Where its API listens.
    pub address: SocketAddr,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Its version.
    pub version: String,
}

/// Why the data directory cannot be used. Each message names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Something else has the name.
    #[error("the data directory {} is not a directory (data_dir)", .0.display())]
    NotADirectory(PathBuf),
    /// Not there, and cannot be made, or may not be used.
    #[error("the data directory {} cannot be used: {error} (data_dir)", path.display())]
    Unusable {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process has it.
    #[error("the data directory {} is in use by another process{}: stop that one, or set another data_dir",
        path.display(), by(note.as_ref()))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who has it, where it says so.
        note: Option<Note>,
    },
    /// The token file is not what we made.
    #[error("the token file {} has to hold one line of 16 characters at least (api.token_file)", .0.display())]
    Token(PathBuf),
}

fn by(note: Option<&Note>) -> String {
    note.map_or_else(String::new, |note| {
        format!(" (pid {}, listening on {})", note.pid, note.address)
    })
}

/// A data directory that is locked for this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory where there is none, and locks it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |error| DataDirError::Unusable { path: path.to_owned(), error };
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                return Err(DataDirError::NotADirectory(path.to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private_dir(path).map_err(unusable)?;
            }
            Err(error) => return Err(unusable(error)),
        }
        let lock = path.join(LOCK);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .map_err(|error| DataDirError::Unusable { path: lock, error })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => {
                Err(DataDirError::InUse { path: path.to_owned(), note: note(path) })
            }
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// Where the outbox is.
    pub fn outbox(&self) -> PathBuf {
        self.path.join(OUTBOX)
    }

    /// Says who runs here; see [`note`].
    pub fn write_note(&self, note: &Note) -> Result<(), DataDirError> {
        let path = self.path.join(NOTE);
        let text = serde_json::to_string(note).unwrap_or_default();
        replace(&path, &text).map_err(|error| DataDirError::Unusable { path, error })
    }

    /// Takes the note away again.
    pub fn remove_note(&self) {
        if let Err(error) = fs::remove_file(self.path.join(NOTE)) {
            tracing::debug!(error.message = %error, "the service's note cannot be removed");
        }
    }

    /// The API's token; made with 256 random bits where there is none.
    pub fn token(&self, path: &Path) -> Result<String, DataDirError> {
        if !path.exists() {
            let mut bits = [0_u8; 32];
            ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bits)
                .map_err(|_| io::Error::other("the system has no random bytes"))
                .and_then(|()| replace(path, &(BASE64URL_NOPAD.encode(&bits) + "\n")))
                .map_err(|error| DataDirError::Unusable { path: path.to_owned(), error })?;
        }
        read_token(path)
    }
}

/// What the service that runs on the directory says of itself, if one does and says it.
pub fn note(data_dir: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(data_dir.join(NOTE)).ok()?).ok()
}

/// Reads a token file.
pub fn read_token(path: &Path) -> Result<String, DataDirError> {
    let text = fs::read_to_string(path)
        .map_err(|error| DataDirError::Unusable { path: path.to_owned(), error })?;
    let token = text.trim_end_matches(['\r', '\n']);
    if token.len() < 16 || token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(DataDirError::Token(path.to_owned()));
    }
    Ok(token.to_owned())
}

fn private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Puts a file in place whole, readable by its owner alone.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
