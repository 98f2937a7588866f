//! The data directory: the lock that makes it one process's own, the token, and the note in
//! which a running service says where it listens.

mod look;
mod owner;

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

pub use self::{look::cannot_write, owner::may_show};
use crate::{
    clock::Timestamp,
    datadir::owner::{close_to_others, foreign_owner, refuse_planted},
};

const LOCK: &str = "lock";
const NOTE: &str = "service.json";
const SERVE: &str = "serve";
const OUTBOX: &str = "outbox";

/// What the names of exports that a service has written begin with.
pub const EXPORT: &str = "export-";

/// How long between two looks at a lock that somebody has.
pub const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What a running service says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// Its process.
    pub pid: u32,
    /// Where its API listens.
    pub address: SocketAddr,
    /// What its certificate is known by, where it speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// What holds the API's token.
    pub token_file: PathBuf,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Its version.
    pub version: String,
}

impl Note {
    /// Where its API is, as a URL without a path.
    pub fn base(&self, address: SocketAddr) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }
}

/// Why the data directory cannot be used. Each message names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It leads somewhere else, and who made it may lead it to yet another place.
    #[error("the data directory {} is a symbolic link: set data_dir to the place that it leads to", .0.display())]
    Link(PathBuf),
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
    /// Another user's, who keeps it closed.
    #[error("the data directory {} belongs to the user with the id {owner} and is closed to others: run this as that user (sudo -u '#{owner}' …)",
        path.display())]
    Closed {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Another user's, and nothing runs on it; what we would write there its owner could not
    /// change.
    #[error("the data directory {} belongs to the user with the id {owner}, and nothing runs on it: run this as that user (sudo -u '#{owner}' …), who has to be able to go on with it",
        path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Somebody has put it there who is not trusted.
    #[error("{} in the data directory is a symbolic link or belongs to another user: whoever put it there could read or change what is stored; look at it, and remove it", .0.display())]
    Planted(PathBuf),
    /// The token file cannot be read.
    #[error("the token file {} cannot be used: {error} (api.token_file)", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process has it.
    #[error("the data directory {} is in use by {}: wait for it, stop it, or set another data_dir",
        path.display(), shown(holder.as_ref(), note.as_ref()))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who has it, where that can be read.
        holder: Option<Holder>,
        /// What the service that has it says of itself, as soon as it listens.
        note: Option<Note>,
    },
    /// The token file is not what we made.
    #[error("the token file {} has to hold one line of 16 characters at least (api.token_file)", .0.display())]
    Token(PathBuf),
}

fn shown(holder: Option<&Holder>, note: Option<&Note>) -> String {
    let holder = holder.map_or_else(|| "another process".into(), Holder::to_string);
    match note {
        Some(note) => format!("{holder}, listening on {}", note.base(note.address)),
        None => holder,
    }
}

/// Who has locked a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// The subcommand that it runs.
    pub command: String,
}

impl Holder {
    /// Whether it is a service, which may not listen yet.
    pub fn serves(&self) -> bool {
        self.command == SERVE
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` with pid {}", self.command, self.pid)
    }
}

/// A data directory that is locked for this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    writable: bool,
    /// `None` where there is none and none can be made.
    _lock: Option<File>,
}

impl DataDir {
    /// Makes the directory where there is none, and locks it for the subcommand `command`.
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
                private_dir(path).map_err(unusable)?;
            }
            Err(error) => return Err(unusable(error)),
        }
        let lock = path.join(LOCK);
        let foreign = foreign_owner(path);
        if foreign.is_none() {
            refuse_planted(path)?;
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
                file.set_len(0)
                    .and_then(|()| file.write_all(holder.as_bytes()))
                    .map_err(|error| self::unusable(path, &lock, error))?;
                Ok(Self { path: path.to_owned(), writable: true, _lock: Some(file) })
            }
            Err(TryLockError::WouldBlock) => Err(in_use(path)),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// The same for the service: waits for up to `patience` while a command has it, but not
    /// for another service.
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

    /// Where the outbox is.
    pub fn outbox(&self) -> PathBuf {
        self.path.join(OUTBOX)
    }

    /// Removes exports that nobody has taken.
    pub fn remove_exports(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(EXPORT)
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(error.message = %error, "an old export cannot be removed");
            }
        }
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
        let there = path.try_exists();
        if !there.map_err(|error| DataDirError::TokenFile { path: path.to_owned(), error })? {
            let mut bits = [0_u8; 32];
            ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bits)
                .map_err(|_| io::Error::other("the system has no random bytes"))
                .and_then(|()| replace(path, &(BASE64URL_NOPAD.encode(&bits) + "\n")))
                .map_err(|error| DataDirError::Unusable { path: path.to_owned(), error })?;
        }
        read_token(path)
    }
}

/// The error for a file of the data directory. Where it is another user's, that is why.
fn unusable(dir: &Path, path: &Path, error: io::Error) -> DataDirError {
    match foreign_owner(dir) {
        Some(owner) if error.kind() == io::ErrorKind::PermissionDenied => {
            DataDirError::Closed { path: dir.to_owned(), owner }
        }
        _ => DataDirError::Unusable { path: path.to_owned(), error },
    }
}

/// The error for a directory that somebody has locked.
fn in_use(path: &Path) -> DataDirError {
    let holder = holder(&path.join(LOCK));
    // A note that a killed process has left says nothing of this one.
    let note =
        note(path).filter(|note| holder.as_ref().is_none_or(|holder| holder.pid == note.pid));
    DataDirError::InUse { path: path.to_owned(), holder, note }
}

/// What the lock file says. Where the system locks files against reading, nothing.
fn holder(lock: &Path) -> Option<Holder> {
    let text = fs::read_to_string(lock).ok()?;
    let (pid, command) = text.trim_end().split_once(' ')?;
    Some(Holder { pid: pid.parse().ok()?, command: command.into() })
}

/// What the service that runs on the directory says of itself, if one does and says it.
fn note(data_dir: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(data_dir.join(NOTE)).ok()?).ok()
}

/// Opens an export that the service on `data_dir` says it has written there, and takes it out of the
/// folder. Whoever runs the service must not have a command of somebody else, root's perhaps, read
/// or remove another file: so only its name is taken from the answer, and it has to be a plain file of
/// the folder's owner.
pub fn take_export(data_dir: &Path, said: &str) -> io::Result<File> {
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    let Some(name) = Path::new(said).file_name().and_then(|name| name.to_str()) else {
        return refused("it has no name");
    };
    if !name.starts_with(EXPORT) {
        return refused("it has not the name of an export");
    }
    let path = data_dir.join(name);
    let file = owner::open_own(&path)?;
    if !owner::is_plain_file_of(&file.metadata()?, &fs::symlink_metadata(data_dir)?) {
        return refused("it is no plain file of the data directory's owner");
    }
    fs::remove_file(&path)?;
    Ok(file)
}

/// Reads a token file.
pub fn read_token(path: &Path) -> Result<String, DataDirError> {
    let closed = path.parent().and_then(foreign_owner);
    let text = crate::tls::read_regular(path).map_err(|error| match closed {
        Some(owner) if error.kind() == io::ErrorKind::PermissionDenied => {
            DataDirError::Closed { path: path.parent().unwrap_or(path).to_owned(), owner }
        }
        _ => DataDirError::TokenFile { path: path.to_owned(), error },
    })?;
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
    // A process that had our number before us may have left one.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = create_private(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Creates a file that only its owner can read. There must be none yet.
pub fn create_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
