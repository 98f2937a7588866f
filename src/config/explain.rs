//! What is in effect for one URL (`check-config --explain`).

use super::{effective::Effective, settings::Config};
use crate::callback::{Destination, UrlError, parse_url};

/// The keys of a section, with those that apply without it.
const KEYS: [(&str, Option<&str>); 15] = [
    ("bearer_token_file", None),
    ("username", None),
    ("password_file", None),
    ("headers", None),
    ("concurrency", Some("delivery.per_destination")),
    ("requests_per_second", None),
    ("burst", None),
    ("connect_timeout", Some("delivery.connect_timeout")),
    ("timeout", Some("delivery.timeout")),
    ("max_age", Some("retry.max_age")),
    ("max_attempts", Some("retry.max_attempts")),
    ("ca_file", Some("tls.ca_file")),
    ("client_cert_file", Some("tls.client_cert_file")),
    ("client_key_file", Some("tls.client_key_file")),
    ("oauth2", None),
];

/// What is in effect for one URL.
#[derive(Debug)]
pub struct Explanation {
    /// Its destination.
    pub destination: Destination,
    /// The section of `destinations` that applies, as its key; `None` if none does.
    pub section: Option<String>,
    /// Each key, its value as TOML, and the key of the setting that determines it.
    pub values: Vec<Explained>,
    /// Why the URL is not called, if the egress policy is known to deny it.
    pub denied: Option<String>,
}

/// A key with its value.
#[derive(Debug)]
pub struct Explained {
    /// The key, as in a section.
    pub key: &'static str,
    /// The value as TOML; `None` if there is none.
    pub value: Option<String>,
    /// The key from which it was read.
    pub from: Option<String>,
}

impl Config {
    /// What is in effect for a URL.
    pub fn explain(&self, url: &str) -> Result<Explanation, UrlError> {
        let url = parse_url(url)?;
        let destination = Destination::of(&url);
        let found = self.destinations.find(&destination);
        let section = found.map(|(pattern, _)| format!("destinations.\"{pattern}\""));
        let set = |all: &[Effective], key: &str| {
            all.iter().find(|it| it.key == key).and_then(|it| it.value.clone())
        };
        let explain = |(key, general): (&'static str, Option<&str>)| {
            let own = found.and_then(|(_, section)| set(&section.effective, key));
            let is_own = own.is_some();
            let value = own.or_else(|| set(&self.effective, general?));
            let from = match &section {
                Some(section) if is_own => Some(format!("{section}.{key}")),
                _ => general.filter(|_| value.is_some()).map(str::to_owned),
            };
            Explained { key, value, from }
        };
        Ok(Explanation {
            values: KEYS.into_iter().map(explain).collect(),
            section,
            denied: self.egress.check_url(&url).err().map(|denied| denied.to_string()),
            destination,
        })
    }
}
