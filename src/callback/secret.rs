//! URLs that may hold a password.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

/// A URL that may contain a password, as submitted. Debug and Display hide the password, so that it
/// does not reach a log or an answer by accident (SECURITY.md).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The whole text, to call the URL or to store it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether something of it is hidden.
    pub fn has_password(&self) -> bool {
        redact_url(&self.0) != self.0
    }
}

impl From<String> for SecretUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact_url(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The URL with its password as `***`, and that of an outcome event or a notice without its content.
///
/// Text that is not a URL is also accepted; when in doubt, more is hidden.
pub fn redact_url(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    match Url::parse(text) {
        Ok(mut url)
            if matches!(url.scheme(), "nats" | "notify")
                && url.query().is_some()
                && url.password().is_none() =>
        {
            url.set_query(None);
            url.into()
        }
        // The parser accepts many spellings, and the HTTP client uses the same parser.
        Ok(url) if url.has_authority() && url.password().is_none() => text.to_owned(),
        Ok(mut url) if url.has_authority() => {
            let hidden = url.set_password(Some("***")).is_ok();
            if hidden { url.into() } else { format!("{}:***", url.scheme()) }
        }
        Ok(_) | Err(_) => redact_text(text),
    }
}

/// Whether a text can be seen at a glance to be a URL that has no user: nearly all are, and each
/// line of the log shows one.
fn is_plain(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return false;
    };
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority.split_once(':').unwrap_or((authority, "0"));
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !host.is_empty()
        && host.bytes().all(in_host)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok()
}

/// Hides what may be a password in text that is not a URL.
fn redact_text(text: &str) -> String {
    let is_scheme = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let slashes = |rest: &str| rest.starts_with(['/', '\\']);
    let start = match text.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) && slashes(rest) => {
            text.len() - rest.trim_start_matches(['/', '\\']).len()
        }
        _ => 0,
    };
    let (scheme, rest) = text.split_at(start);
    let at = rest.rfind('@').unwrap_or(rest.len());
    match rest[..at].find(':') {
        Some(colon) => format!("{scheme}{}:***{}", &rest[..colon], &rest[at..]),
        None if at < rest.len() => format!("{scheme}***{}", &rest[at..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_never_shown() {
        for (url, shown) in [
            ("http://user:secret@host/a?b=c@d", "http://user:***@host/a?b=c@d"),
            ("http://host/a@b:secret", "http://host/a@b:secret"),
            ("http://user@host/", "http://user@host/"),
            ("http://u:sec@ret@host/", "http://u:***@host/"),
            ("http://u:sec/ret@ho st/", "http://u:***@ho st/"),
            ("http:/u:secret@host/a", "http://u:***@host/a"),
            ("http:///u:secret@host/a", "http://u:***@host/a"),
            ("http:\\\\u:secret@host/a", "http://u:***@host/a"),
            ("http://\\u:secret@host/a", "http://u:***@host/a"),
            ("http:u:secret@host/x://e@f", "http://u:***@host/x://e@f"),
            ("http:/\tu:sec\tret@host", "http://u:***@host/"),
            ("ftp:/u:secret@h/", "ftp://u:***@h/"),
            ("http:/u:sec://ret@ho st/", "http:/u:***@ho st/"),
            ("http://u:secret%40127.0.0.1/", "http://u:***"),
            ("u:secret@host", "u:***@host"),
            ("ftp://u:secret@host/", "ftp://u:***@host/"),
            ("mailto:u:secret@host", "mailto:***@host"),
            ("u:secret@host://x", "u:***@host://x"),
            (r"foo://u:sec\ret@host/", "foo://u:***@host/"),
        ] {
            assert_eq!(redact_url(url), shown);
            let url = SecretUrl::from(url.to_owned());
            assert_eq!([url.to_string(), format!("{url:?}")], [shown, shown]);
        }
    }
}
