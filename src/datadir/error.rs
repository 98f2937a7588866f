//! Why a data directory cannot be used, and who uses it.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The subcommand of the service.
pub(super) const SERVE: &str = "serve";

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

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` with pid {}", self.command, self.pid)
    }
}
