//! What we show a destination to be let in (contract, 6: `auth`).

use std::{fmt, path::PathBuf};

use data_encoding::BASE64;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

/// A secret that is shown to a destination. Its Debug output does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// `authorization: Bearer …`
    Bearer(String),
    /// `authorization: Basic …`
    Basic {
        /// The user's name.
        username: String,
        /// The user's password.
        password: String,
    },
}

impl Credentials {
    /// Takes the user and password out of a URL, percent-decoded as they are meant.
    pub fn take(url: &mut Url) -> Option<Self> {
        let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        if url.username().is_empty() && url.password().is_none() {
            return None;
        }
        let username = decode(url.username());
        let password = decode(url.password().unwrap_or_default());
        let taken = url.set_username("").is_ok() && url.set_password(None).is_ok();
        debug_assert!(taken, "what has a user has a host");
        Some(Self::Basic { username, password })
    }

    /// Every text by which they could be known again, the longest first.
    pub fn secrets(&self) -> Vec<String> {
        match self {
            Self::Bearer(token) => vec![token.clone()],
            Self::Basic { password, .. } if password.is_empty() => Vec::new(),
            Self::Basic { username, password } => {
                let header = BASE64.encode(format!("{username}:{password}").as_bytes());
                let encoded = utf8_percent_encode(password, NON_ALPHANUMERIC).to_string();
                let mut all = vec![header, encoded, password.clone()];
                all.sort_by_key(|text| std::cmp::Reverse(text.len()));
                all
            }
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer(***)",
            Self::Basic { .. } => "Basic(***)",
        })
    }
}

/// Where such a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialFile {
    /// `bearer_token_file`
    Bearer(PathBuf),
    /// `username` and `password_file`
    Basic {
        /// The user's name.
        username: String,
        /// The file with the password.
        password: PathBuf,
    },
}

/// The file holds no secret. What it holds is never part of the message.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// It cannot be read.
    #[error("{}: {error}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It is empty, or has several lines.
    #[error("{} has to hold one line that is not empty, without control characters", .0.display())]
    Line(PathBuf),
}

impl CredentialFile {
    /// The file with the secret.
    pub fn path(&self) -> &PathBuf {
        match self {
            Self::Bearer(file) | Self::Basic { password: file, .. } => file,
        }
    }

    /// Reads the secret, without the line's end that editors put behind it.
    pub fn read(&self) -> Result<Credentials, CredentialError> {
        let file = self.path();
        let unreadable = |error| CredentialError::Unreadable { file: file.clone(), error };
        let text = crate::tls::read_regular(file).map_err(unreadable)?;
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() || secret.contains(char::is_control) {
            return Err(CredentialError::Line(file.clone()));
        }
        Ok(match self {
            Self::Bearer(_) => Credentials::Bearer(secret.to_owned()),
            Self::Basic { username, .. } => {
                Credentials::Basic { username: username.clone(), password: secret.to_owned() }
            }
        })
    }
}
