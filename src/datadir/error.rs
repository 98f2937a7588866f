//! The errors of a data directory, and the process that uses it.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The subcommand of the service.
pub(super) const SERVE: &str = "serve";

/// The note that a running service publishes in its data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// Its process.
    pub pid: u32,
    /// Address of its API.
    pub address: SocketAddr,
    /// Fingerprint of its certificate, with TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// File with the API's token.
    pub token_file: PathBuf,
    /// When it started.
    pub started_at: Timestamp,
    /// Its version.
    pub version: String,
}

impl Note {
    /// URL of its API, without a path.
    pub fn base(&self, address: SocketAddr) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }
}

/// Why the data directory cannot be used. Each message names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A symbolic link, which its owner could change.
    #[error("the data directory {} is a symbolic link: set data_dir to its target", .0.display())]
    Link(PathBuf),
    /// Not a directory.
    #[error("the data directory {} is not a directory (data_dir)", .0.display())]
    NotADirectory(PathBuf),
    /// It cannot be created, read or written.
    #[error("the data directory {} cannot be used: {error} (data_dir)", path.display())]
    Unusable {
        /// The directory or a file in it.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// It belongs to another user, without access for others.
    #[error("the data directory {} belongs to the user with the id {owner}, and others have no access: run this as that user (sudo -u '#{owner}' …)",
        path.display())]
    Closed {
        /// The directory.
        path: PathBuf,
        /// The id of its owner.
        owner: u32,
    },
    /// It belongs to another user, and no service runs on it. Files that this user creates there could
    /// not be changed by the owner.
    #[error("the data directory {} belongs to the user with the id {owner}, and no service runs on it: run this as that user (sudo -u '#{owner}' …)",
        path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The id of its owner.
        owner: u32,
    },
    /// A file in it was not created by its owner.
    #[error("{} in the data directory is a symbolic link or belongs to another user, who could read or change what is stored; check it, and remove it", .0.display())]
    Planted(PathBuf),
    /// A token file cannot be used.
    #[error("{error} ({key})")]
    Token {
        /// The setting that names it.
        key: &'static str,
        /// Why.
        error: TokenError,
    },
    /// Another process has it locked.
    #[error("the data directory {} is in use by {}: wait for it, stop it, or set another data_dir",
        path.display(), shown(holder.as_ref(), note.as_ref()))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that has locked it, if that can be read.
        holder: Option<Holder>,
        /// The note of the service, if one runs and listens.
        note: Option<Note>,
    },
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("the token file {} cannot be used: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// It has the wrong content.
    #[error("the token file {} has to contain one line of at least 16 characters", .0.display())]
    Content(PathBuf),
    /// The file of the read-only token has the operator's.
    #[error("the token file {} has the same token as api.token_file, which opens everything; create another one", .0.display())]
    Same(PathBuf),
}

fn shown(holder: Option<&Holder>, note: Option<&Note>) -> String {
    let holder = holder.map_or_else(|| "another process".into(), Holder::to_string);
    match note {
        Some(note) => format!("{holder}, listening on {}", note.base(note.address)),
        None => holder,
    }
}

/// The process that has locked a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// The subcommand that it runs.
    pub command: String,
}

impl Holder {
    /// Whether it is a service; it may not listen yet.
    pub fn serves(&self) -> bool {
        self.command == SERVE
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` with pid {}", self.command, self.pid)
    }
}
