//! Credentials for destinations: those of a section of `destinations`, or user and password of a URL.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use http::HeaderValue;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use url::Url;

/// Credentials for a destination. The Debug output does not show them.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// `authorization: Bearer …`
    Bearer(String),
    /// `authorization: Basic …`, as octets: the encoding is not specified (RFC 7617, 2.1).
    Basic {
        /// The user's name.
        username: Vec<u8>,
        /// The user's password.
        password: Vec<u8>,
    },
}

impl Credentials {
    /// Removes user and password from a URL and percent-decodes them.
    pub fn take(url: &mut Url) -> Option<Self> {
        let decode = |text| percent_decode_str(text).collect();
        if url.username().is_empty() && url.password().is_none() {
            return None;
        }
        let username = decode(url.username());
        let password = decode(url.password().unwrap_or_default());
        let taken = url.set_username("").is_ok() && url.set_password(None).is_ok();
        debug_assert!(taken, "what has a user has a host");
        Some(Self::Basic { username, password })
    }

    /// The value of `authorization`; `None` if it is not a valid header.
    pub fn header(&self) -> Option<HeaderValue> {
        let text = match self {
            Self::Bearer(token) => format!("Bearer {token}"),
            Self::Basic { .. } => format!("Basic {}", self.basic()),
        };
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// User and password, encoded for the header.
    fn basic(&self) -> String {
        match self {
            Self::Bearer(_) => String::new(),
            Self::Basic { username, password } => {
                BASE64.encode(&[username.as_slice(), b":", password].concat())
            }
        }
    }

    /// Every form in which they could appear in a response, longest first. Octets that are not UTF-8
    /// are replaced by U+FFFD, as in a stored response.
    pub fn secrets(&self) -> Vec<String> {
        match self {
            Self::Bearer(token) => vec![token.clone()],
            Self::Basic { password, .. } if password.is_empty() => Vec::new(),
            Self::Basic { password, .. } => {
                let encoded = percent_encode(password, NON_ALPHANUMERIC).to_string();
                let shown = String::from_utf8_lossy(password).into_owned();
                let mut all = vec![self.basic(), encoded, shown];
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

/// The files with credentials.
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

/// A file with credentials cannot be used. Its content is never part of the message.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// It cannot be read.
    #[error("{}: {error}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// It is empty, or has several lines.
    #[error("{} has to contain one line that is not empty, without control characters", .0.display())]
    Line(PathBuf),
}

impl CredentialFile {
    /// Path of the file with the secret.
    pub fn path(&self) -> &PathBuf {
        match self {
            Self::Bearer(file) | Self::Basic { password: file, .. } => file,
        }
    }

    /// Reads the secret, without a trailing line ending.
    pub fn read(&self) -> Result<Credentials, CredentialError> {
        let secret = read_line(self.path())?;
        Ok(match self {
            Self::Bearer(file) => {
                let token = String::from_utf8(secret);
                Credentials::Bearer(token.map_err(|_| CredentialError::Line(file.clone()))?)
            }
            Self::Basic { username, .. } => {
                Credentials::Basic { username: username.clone().into(), password: secret }
            }
        })
    }
}

/// Reads a file with one line, without its ending.
pub fn read_line(file: &Path) -> Result<Vec<u8>, CredentialError> {
    let unreadable = |error| CredentialError::Unreadable { file: file.to_owned(), error };
    let mut bytes = crate::tls::read_regular_bytes(file).map_err(unreadable)?;
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
    bytes.truncate(end.map_or(0, |end| end + 1));
    if bytes.is_empty() || bytes.iter().any(u8::is_ascii_control) {
        return Err(CredentialError::Line(file.to_owned()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(url: &str) -> (Option<Credentials>, String) {
        let mut url = Url::parse(url).unwrap();
        (Credentials::take(&mut url), url.to_string())
    }

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic { username: username.into(), password: password.into() }
    }

    #[test]
    fn a_user_without_a_password_and_a_password_without_a_user_are_taken_from_a_url() {
        for (url, credentials) in [
            ("http://user@h/", Some(basic("user", ""))),
            ("http://:pass@h/", Some(basic("", "pass"))),
            ("http://us%20er:p%3Ass@h/", Some(basic("us er", "p:ss"))),
            ("http://h/", None),
        ] {
            assert_eq!(taken(url), (credentials, "http://h/".to_owned()), "{url}");
        }
    }

    #[test]
    fn an_empty_password_is_no_secret() {
        assert_eq!(basic("user", "").secrets(), [""; 0]);
        assert_eq!(basic("user", "p:ss").secrets().len(), 3);
    }

    #[test]
    fn debug_output_has_no_secret() {
        let bearer = Credentials::Bearer("secret".into());
        assert_eq!(format!("{bearer:?}"), "Bearer(***)");
        assert_eq!(format!("{:?}", basic("user", "secret")), "Basic(***)");
    }
}
