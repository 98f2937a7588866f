//! What a section of `destinations` changes in the requests to its destinations.

use std::{path::PathBuf, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    credentials::{CredentialError, CredentialFile, Credentials, read_line},
    oauth,
};
use crate::tls::PairFiles;

/// The settings of a section. What is not set is as for all destinations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `bearer_token_file`, or `username` and `password_file`.
    pub credentials: Option<CredentialFile>,
    /// `oauth2`
    pub oauth2: Option<oauth::Settings>,
    /// `headers`
    pub headers: Vec<(HeaderName, HeaderSource)>,
    /// `timeout`
    pub timeout: Option<Duration>,
    /// `connect_timeout`
    pub connect_timeout: Option<Duration>,
    /// `ca_file`
    pub ca_file: Option<PathBuf>,
    /// `client_cert_file` and `client_key_file`
    pub identity: Option<PairFiles>,
}

/// Where the value of a header comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderSource {
    /// From the settings.
    Text(HeaderValue),
    /// From a file with one line.
    File(PathBuf),
}

impl HeaderSource {
    /// The value.
    pub fn read(&self) -> Result<HeaderValue, CredentialError> {
        match self {
            Self::Text(value) => Ok(value.clone()),
            Self::File(file) => {
                let value = HeaderValue::try_from(read_line(file)?);
                let mut value = value.map_err(|_| CredentialError::Line(file.clone()))?;
                value.set_sensitive(true);
                Ok(value)
            }
        }
    }
}

impl Settings {
    /// Whether its destinations need a separate client.
    pub(super) fn connects_otherwise(&self) -> bool {
        self.connect_timeout.is_some() || self.ca_file.is_some() || self.identity.is_some()
    }
}

/// A section with the content of its files.
#[derive(Debug)]
pub struct Section {
    /// The credentials.
    pub credentials: Option<Credentials>,
    /// The access tokens.
    pub tokens: Option<oauth::Tokens>,
    /// Headers of each request.
    pub headers: HeaderMap,
    /// Values of headers that came from files.
    pub secrets: Vec<String>,
    /// Time-out of an exchange.
    pub timeout: Option<Duration>,
    /// The connections that its destinations use.
    pub(super) connecting: usize,
}

impl Section {
    /// Reads the files.
    pub(super) fn read(settings: &Settings, connecting: usize) -> Result<Self, CredentialError> {
        let mut headers = HeaderMap::new();
        let mut secrets = Vec::new();
        for (name, source) in &settings.headers {
            let value = source.read()?;
            if value.is_sensitive() {
                secrets.push(String::from_utf8_lossy(value.as_bytes()).into_owned());
            }
            headers.insert(name.clone(), value);
        }
        Ok(Self {
            credentials: settings.credentials.as_ref().map(CredentialFile::read).transpose()?,
            tokens: settings.oauth2.as_ref().map(oauth::Tokens::read).transpose()?,
            headers,
            secrets,
            timeout: settings.timeout,
            connecting,
        })
    }
}
