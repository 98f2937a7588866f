//! Patterns of destinations: the names of the sections `destinations."…"` in the settings.

use std::{fmt, str::FromStr};

use super::destination::{Destination, DestinationMap};

/// One destination, or all destinations of a scheme whose host begins or ends with a text.
///
/// Ordered by specificity, the most specific first: a destination, then patterns with more characters besides
/// the `*`, then those with a port, then those that fix the end of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    One(Destination),
    Hosts { scheme: Scheme, fixed: Fixed, text: String, port: Option<u16> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// Which end of the host the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fixed {
    Begin,
    End,
}

/// Not a destination nor a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a destination.
    #[error(
        "it is not scheme, host and port such as \"https://host:8443\", nor a pattern such as \
         \"https://*.example.com\" or \"https://print-*\""
    )]
    Syntax,
    /// The `*` is in the wrong place.
    #[error(
        "a pattern has one `*`, at the beginning or at the end of the host, such as \
         \"https://*.example.com\" or \"https://print-*\""
    )]
    Star,
    /// It has a user, a path or a query.
    #[error(
        "settings belong to scheme, host and port; leave out the user and what follows the port"
    )]
    More,
}

impl Scheme {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    /// Reads a destination, for which a missing port is the scheme's default, or a pattern, for which a
    /// missing port means every port.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (scheme, rest) = text.split_once("://").ok_or(PatternError::Syntax)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(PatternError::Syntax),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@', '\\']) {
            return Err(PatternError::More);
        }
        if !rest.contains('*') {
            let one = Destination::parse(text).filter(|it| !it.host().is_empty());
            return one.map(|one| Self(Kind::One(one))).ok_or(PatternError::Syntax);
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => match port.parse() {
                Ok(port @ 1..) => (host, Some(port)),
                _ => return Err(PatternError::Syntax),
            },
            None => (rest, None),
        };
        let (fixed, host) = match (host.strip_prefix('*'), host.strip_suffix('*')) {
            (_, Some(begin)) => (Fixed::Begin, begin),
            (Some(end), None) => (Fixed::End, end),
            (None, None) => return Err(PatternError::Star),
        };
        if host.contains('*') {
            return Err(PatternError::Star);
        }
        let in_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !host.bytes().all(in_host) {
            return Err(PatternError::Syntax);
        }
        Ok(Self(Kind::Hosts { scheme, fixed, text: host.to_ascii_lowercase(), port }))
    }
}

impl Pattern {
    /// Whether hosts of any owner may match: all but single destinations and the hosts below one domain.
    pub fn is_open(&self) -> bool {
        match &self.0 {
            Kind::One(_) => false,
            Kind::Hosts { fixed: Fixed::End, text, .. } => !text.starts_with('.'),
            Kind::Hosts { fixed: Fixed::Begin, .. } => true,
        }
    }

    fn matches(&self, destination: &Destination) -> bool {
        match &self.0 {
            Kind::One(one) => one == destination,
            Kind::Hosts { scheme, fixed, text, port } => {
                let Some((of, host, at)) = destination.parts() else { return false };
                let is_in = match fixed {
                    Fixed::Begin => host.starts_with(text),
                    Fixed::End => host.ends_with(text),
                };
                of == scheme.as_str() && is_in && port.is_none_or(|port| port == at)
            }
        }
    }

    /// The smaller, the more exact.
    fn rank(&self) -> impl Ord + use<> {
        match &self.0 {
            Kind::One(_) => (0, 0, false, false),
            Kind::Hosts { text, port, fixed, .. } => {
                let length = isize::try_from(text.len()).unwrap_or(isize::MAX);
                (1, -length, port.is_none(), *fixed == Fixed::Begin)
            }
        }
    }
}

impl From<Destination> for Pattern {
    fn from(one: Destination) -> Self {
        Self(Kind::One(one))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::One(one) => one.fmt(f),
            Kind::Hosts { scheme, fixed, text, port } => {
                let scheme = scheme.as_str();
                match fixed {
                    Fixed::Begin => write!(f, "{scheme}://{text}*")?,
                    Fixed::End => write!(f, "{scheme}://*{text}")?,
                }
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}

/// Values for destinations and patterns of them. The most exact pattern that matches wins.
#[derive(Debug, Clone, PartialEq)]
pub struct PatternMap<T> {
    /// The most exact first.
    entries: Vec<(Pattern, T)>,
    /// Where single destinations are; they are the first entries.
    single: DestinationMap<usize>,
}

impl<T> Default for PatternMap<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), single: DestinationMap::default() }
    }
}

impl<T> FromIterator<(Pattern, T)> for PatternMap<T> {
    /// If a pattern occurs more than once, the last one counts.
    fn from_iter<I: IntoIterator<Item = (Pattern, T)>>(all: I) -> Self {
        let mut entries: Vec<(Pattern, T)> = Vec::new();
        for (pattern, value) in all {
            entries.retain(|(known, _)| *known != pattern);
            entries.push((pattern, value));
        }
        entries.sort_by_key(|(pattern, _)| pattern.rank());
        let single = entries.iter().enumerate().filter_map(|(at, (pattern, _))| match &pattern.0 {
            Kind::One(one) => Some((one.clone(), at)),
            Kind::Hosts { .. } => None,
        });
        Self { single: single.collect(), entries }
    }
}

impl<T> PatternMap<T> {
    /// The most exact pattern that the destination matches, and its value.
    pub fn find(&self, destination: &Destination) -> Option<(&Pattern, &T)> {
        let entry = match self.single.get(destination) {
            Some(at) => self.entries.get(*at),
            None => {
                self.entries[self.single.len()..].iter().find(|(it, _)| it.matches(destination))
            }
        };
        entry.map(|(pattern, value)| (pattern, value))
    }

    /// The value of the most exact pattern that the destination matches.
    pub fn get(&self, destination: &Destination) -> Option<&T> {
        self.find(destination).map(|(_, value)| value)
    }

    /// All values, those of the most exact patterns first.
    pub fn iter(&self) -> impl Iterator<Item = (&Pattern, &T)> {
        self.entries.iter().map(|(pattern, value)| (pattern, value))
    }

    /// A map with other values for the same patterns.
    pub fn try_map<U, E>(
        &self,
        mut of: impl FnMut(&Pattern, &T) -> Result<U, E>,
    ) -> Result<PatternMap<U>, E> {
        let entries =
            self.iter().map(|(pattern, value)| Ok((pattern.clone(), of(pattern, value)?)));
        Ok(PatternMap { entries: entries.collect::<Result<_, E>>()?, single: self.single.clone() })
    }

    /// A map with other values for the same patterns.
    pub fn map<U>(&self, mut of: impl FnMut(&Pattern, &T) -> U) -> PatternMap<U> {
        let entries = self.iter().map(|(pattern, value)| (pattern.clone(), of(pattern, value)));
        PatternMap { entries: entries.collect(), single: self.single.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(text: &str) -> Destination {
        Destination::parse(text).unwrap()
    }

    /// The pattern that wins for each URL, of all patterns.
    fn winners(patterns: &[&str], url: &str) -> Option<String> {
        let all = patterns.iter().map(|text| (text.parse().unwrap(), ()));
        let map: PatternMap<()> = all.collect();
        map.find(&destination(url)).map(|(pattern, ())| pattern.to_string())
    }

    #[test]
    fn the_most_exact_pattern_wins_in_any_order() {
        let mut patterns = [
            "https://*",
            "https://*.example.com",
            "https://*.print.example.com",
            "https://print-*",
            "https://print-*:8443",
            "https://print-7.example.com:8443",
            "http://*.example.com",
        ];
        for _ in 0..2 {
            for (url, wins) in [
                ("https://print-7.example.com:8443/x", Some("https://print-7.example.com:8443")),
                ("https://print-7.example.com", Some("https://*.example.com")),
                ("https://a.print.example.com", Some("https://*.print.example.com")),
                ("https://print-8.local:8443", Some("https://print-*:8443")),
                ("https://PRINT-8.local:8444", Some("https://print-*")),
                ("https://example.com", Some("https://*")),
                ("https://[::1]:1", Some("https://*")),
                ("http://b.example.com:8080", Some("http://*.example.com")),
                ("http://example.com", None),
            ] {
                assert_eq!(winners(&patterns, url).as_deref(), wins, "{url}");
            }
            patterns.reverse();
        }
        let tie = ["http://ab*", "http://*ab"];
        assert_eq!(winners(&tie, "http://ab").as_deref(), Some("http://*ab"));
    }

    #[test]
    fn a_pattern_has_one_star_at_an_end_of_the_host_and_nothing_but_a_port_behind() {
        for (text, error) in [
            ("host", PatternError::Syntax),
            ("ftp://host", PatternError::Syntax),
            ("https://", PatternError::Syntax),
            ("https://ho st", PatternError::Syntax),
            ("https://*:0", PatternError::Syntax),
            ("https://*:x", PatternError::Syntax),
            ("https://[fd00:*", PatternError::Syntax),
            ("https://pr*nt", PatternError::Star),
            ("https://*.example.*", PatternError::Star),
            ("https://host/path", PatternError::More),
            ("https://*/path", PatternError::More),
            ("https://user@host", PatternError::More),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(error), "{text}");
        }
        for (text, shown) in [
            ("HTTPS://Host", "https://host:443"),
            ("http://host:8080/", "http://host:8080"),
            ("https://*.Example.com:8443/", "https://*.example.com:8443"),
            ("https://Print-*", "https://print-*"),
        ] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), shown);
        }
    }
}
