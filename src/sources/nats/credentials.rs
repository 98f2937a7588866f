//! Secrets from files, and how they are used to connect.

use std::{
    io,
    path::{Path, PathBuf},
};

use async_nats::{Auth, AuthError};
use nkeys::KeyPair;

use super::fault::Fault;
use crate::tls::read_regular;

/// How the service identifies itself to the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Not at all, or with its client certificate.
    Anonymous,
    /// A JWT and a seed, in a file as `nsc` writes it.
    Credentials(PathBuf),
    /// A file with the seed of an nkey.
    Nkey(PathBuf),
    /// A user, and a file with the password.
    Password {
        /// The user.
        user: String,
        /// The file.
        file: PathBuf,
    },
    /// A file with a token.
    Token(PathBuf),
}

impl Access {
    /// The file with the secret.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Anonymous => None,
            Self::Credentials(file)
            | Self::Nkey(file)
            | Self::Password { file, .. }
            | Self::Token(file) => Some(file),
        }
    }

    /// Whether the secret can be read from its file.
    pub fn check(&self) -> Result<(), Fault> {
        Secret::read(self).map(drop)
    }
}

/// The content of the file. The Debug output does not show it.
pub(super) enum Secret {
    None,
    Jwt { jwt: String, key: KeyPair },
    Nkey(KeyPair),
    Password { user: String, password: String },
    Token(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    /// Reads the file of this access.
    pub(super) fn read(access: &Access) -> Result<Self, Fault> {
        Ok(match access {
            Access::Anonymous => Self::None,
            Access::Credentials(file) => {
                let text = text(file)?;
                let between = |name: &str| {
                    let (_, rest) = text.split_once(&format!("-----BEGIN {name}-----"))?;
                    // The line at the end has six dashes in some versions of `nsc`.
                    Some(rest.split_once("---")?.0.trim().to_owned())
                };
                let wanted = || {
                    let wanted = "it has to contain a user's JWT and seed, as `nsc generate creds` writes it";
                    Fault::Secret { file: file.clone(), reason: wanted.into() }
                };
                let jwt = between("NATS USER JWT").ok_or_else(wanted)?;
                let seed = between("USER NKEY SEED").ok_or_else(wanted)?;
                Self::Jwt { jwt, key: key(file, &seed)? }
            }
            Access::Nkey(file) => Self::Nkey(key(file, text(file)?.trim())?),
            Access::Password { user, file } => {
                Self::Password { user: user.clone(), password: line(file)? }
            }
            Access::Token(file) => Self::Token(line(file)?),
        })
    }

    /// The response to the server's challenge.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        let mut sign = |key: &KeyPair| -> Result<(), AuthError> {
            auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
            Ok(())
        };
        match self {
            Self::None => {}
            Self::Jwt { jwt, key } => {
                sign(key)?;
                auth.jwt = Some(jwt.clone());
            }
            Self::Nkey(key) => {
                sign(key)?;
                auth.nkey = Some(key.public_key());
            }
            Self::Password { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.clone());
            }
            Self::Token(token) => auth.token = Some(token.clone()),
        }
        Ok(auth)
    }
}

fn text(file: &Path) -> Result<String, Fault> {
    read_regular(file).map_err(|error| Fault::secret(file, &error))
}

/// The text without the line's end; an empty one is an error.
fn line(file: &Path) -> Result<String, Fault> {
    let text = text(file)?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(Fault::secret(file, &io::Error::other("it is empty")));
    }
    Ok(line.to_owned())
}

fn key(file: &Path, seed: &str) -> Result<KeyPair, Fault> {
    let is_user = seed.starts_with("SU");
    KeyPair::from_seed(seed).ok().filter(|_| is_user).ok_or_else(|| Fault::Secret {
        file: file.to_owned(),
        reason: "it has to contain the seed of a user's nkey, which begins with SU".into(),
    })
}
