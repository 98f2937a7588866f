//! The settings of the store.

use std::path::PathBuf;

use crate::{callback::SecretUrl, outbox::Common, tls::PairFiles};

/// The settings `outbox.postgres.*`, and those of every store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// URL of the database, `postgresql://user:password@host/database`.
    pub url: SecretUrl,
    /// URL that leads to the database without a pooler in transaction mode, if `url` leads to one.
    pub session_url: Option<SecretUrl>,
    /// A file with the password, for both.
    pub password_file: Option<PathBuf>,
    /// Certificates that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate and its key.
    pub identity: Option<PairFiles>,
    /// Name of the schema, which the store creates and uses exclusively.
    pub schema: String,
    /// The settings that every store has.
    pub common: Common,
}

impl Settings {
    /// The location of the callbacks, without a password.
    pub fn place(&self) -> String {
        format!("{} (schema {})", self.url, self.schema)
    }
}
