//! Destinations of callbacks.

use std::{collections::HashMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use url::Url;

use super::url::{UrlError, parse_url};

/// A map by destination. Its hash is much cheaper than that of the standard library, and is also
/// seeded, so that the author of a URL cannot choose names that collide.
pub type DestinationMap<V> = HashMap<Destination, V, foldhash::fast::RandomState>;

/// Scheme, host and port: the unit of queues, concurrency limits and breakers.
///
/// Empty for a URL that cannot be parsed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Destination(Arc<str>);

impl Destination {
    /// The destination of a callback that can have none.
    pub fn none() -> Self {
        Self("".into())
    }

    /// The destination of `url`, with the port even if it is the scheme's default.
    pub fn of(url: &Url) -> Self {
        match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) => Self(format!("{}://{host}:{port}", url.scheme()).into()),
            (Some(host), None) => Self(format!("{}://{host}", url.scheme()).into()),
            (None, _) => Self::none(),
        }
    }

    /// Parses a destination as a person writes it: with or without the port, in any case, as a whole
    /// URL or only its beginning.
    pub fn parse(text: &str) -> Option<Self> {
        Url::parse(text).ok().map(|url| Self::of(&url)).filter(|it| !it.is_none())
    }

    /// The destination of a callback URL as submitted; none if the URL is invalid.
    pub fn of_callback(url: &str) -> Self {
        match parse_url(url) {
            Ok(url) => Self::of(&url),
            Err(UrlError::Scheme(_)) => {
                Self::parse(url).filter(|it| !it.is_own()).unwrap_or_else(Self::none)
            }
            Err(UrlError::Syntax(_)) => Self::none(),
        }
    }

    /// Puts back what [`Destination::as_str`] gave.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is a subject of the broker, and not a receiver.
    pub fn is_broker(&self) -> bool {
        self.0.starts_with("nats://")
    }

    /// Whether it is that of notices to the operator.
    pub fn is_notice(&self) -> bool {
        self.0.starts_with("notify://")
    }

    /// Whether it is one of the service's own, which no producer can give.
    pub fn is_own(&self) -> bool {
        self.is_broker() || self.is_notice()
    }

    /// The host, as in the URL.
    pub fn host(&self) -> &str {
        let after_scheme = self.0.split_once("://").map_or("", |(_, rest)| rest);
        after_scheme.rsplit_once(':').map_or(after_scheme, |(host, _)| host)
    }

    /// Scheme, host and port; `None` if it is no destination of the web.
    pub fn parts(&self) -> Option<(&str, &str, u16)> {
        let (scheme, rest) = self.0.split_once("://")?;
        let (host, port) = rest.rsplit_once(':')?;
        Some((scheme, host, port.parse().ok()?))
    }

    /// `http://host:8080`, or nothing.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_always_names_its_port_and_ignores_case_path_and_user() {
        let of = |text: &str| Destination::parse(text).unwrap().to_string();
        assert_eq!(of("http://Host/x"), "http://host:80");
        assert_eq!(of("https://u:p@host"), "https://host:443");
        assert_eq!(of("http://[::1]:8080/a?b"), "http://[::1]:8080");
        assert_eq!(Destination::parse("host"), None);
        assert_eq!(Destination::parse("http://[::1]/").unwrap().host(), "[::1]");
        assert_eq!(Destination::none().host(), "");
        assert!(of("nats://Some.subject/x").starts_with("nats://Some.subject"));
        assert!(Destination::of_callback("nats://some.subject/x").is_none());
        assert!(Destination::of_callback("notify://some.host:80/?notice={}").is_none());
    }
}
