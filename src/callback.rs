//! The callback: its id, where it goes, and the six-key body that it brings.

use std::{fmt, str::FromStr, sync::Arc};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use url::Url;

/// The public name of a callback: 26 characters of lower-case base32 that sort by age.
///
/// It is the `webhook-id` of every attempt and replay. The outbox gives it; to everyone
/// else it is opaque.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallbackId(u128);

impl CallbackId {
    /// An id from the number that the outbox keeps it under.
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The number behind the id.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for CallbackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Base32 with the extended hex alphabet keeps the order of the bytes (RFC 4648, 7).
        f.write_str(&data_encoding::BASE32_DNSSEC.encode(&self.0.to_be_bytes()))
    }
}

impl fmt::Debug for CallbackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no callback id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no callback id: an id has 26 characters from 0-9 and a-v")]
pub struct ParseIdError(String);

impl FromStr for CallbackId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        data_encoding::BASE32_DNSSEC
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .map(|bytes| Self(u128::from_be_bytes(bytes)))
            .ok_or_else(|| ParseIdError(text.chars().take(64).collect()))
    }
}

/// What the job does, as the callback says it (seed, "Data Delivery").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobState {
    /// The job waits for its client to fetch the result files.
    Sending,
    /// The job ended well.
    Finished,
    /// The job ended in an error.
    Error,
}

impl JobState {
    /// The word that goes into the body.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sending => "SENDING",
            Self::Finished => "FINISHED",
            Self::Error => "ERROR",
        }
    }
}

/// The JSON object that a receiver gets: these six keys, in this order, always all of them
/// (contract, 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Body {
    /// DPF's internal id of the job.
    pub job_id: String,
    /// The name of the job's directory.
    pub job_id_fs: String,
    /// What the job does.
    pub job_state: JobState,
    /// How the job ended; only when it ended.
    pub exit_status: Option<String>,
    /// Why the job ended in an error, where that was given.
    pub error_reason: Option<String>,
    /// The page of the job in DPF Tracker.
    pub dpf_tracker_url: Option<String>,
}

impl Body {
    /// The bytes of the PUT.
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings and an enum has no way to fail; an empty body would be seen by
        // the byte-for-byte tests.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Scheme, host and port: what has one queue, one concurrency limit and one breaker.
///
/// Empty for a URL that has none of them because it does not parse.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Destination(Arc<str>);

impl Destination {
    /// The destination of a callback that can have none.
    pub fn none() -> Self {
        Self("".into())
    }

    /// Where `url` leads; the port is always named, also where it is the scheme's own.
    pub fn of(url: &Url) -> Self {
        match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) => Self(format!("{}://{host}:{port}", url.scheme()).into()),
            (Some(host), None) => Self(format!("{}://{host}", url.scheme()).into()),
            (None, _) => Self::none(),
        }
    }

    /// The destination that somebody wrote down: with or without the port, in any case, as a
    /// whole URL or only its beginning.
    pub fn parse(text: &str) -> Option<Self> {
        Url::parse(text).ok().map(|url| Self::of(&url)).filter(|it| !it.is_none())
    }

    /// Where a callback URL leads, as it was handed in; none where it leads nowhere.
    pub fn of_callback(url: &str) -> Self {
        match parse_url(url) {
            Ok(url) => Self::of(&url),
            Err(UrlError::Scheme(_)) => Self::parse(url).unwrap_or_else(Self::none),
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

    /// The host alone, as it stands in the URL.
    pub fn host(&self) -> &str {
        let after_scheme = self.0.split_once("://").map_or("", |(_, rest)| rest);
        after_scheme.rsplit_once(':').map_or(after_scheme, |(host, _)| host)
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

/// Why a URL can never be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is no URL.
    #[error("the callback URL is not valid: {0}")]
    Syntax(String),
    /// Only `http` and `https` are called.
    #[error("the callback URL's scheme is `{0}`; only http and https are called")]
    Scheme(String),
}

/// Reads a callback URL: it must parse, be absolute, name a host, and be http or https.
///
/// The parser is a browser's: it takes `http:/host`, and of `http:///path`, where a variable was
/// empty, it makes a call to the host `path`. Here both are refused. Characters in path and query
/// that no URI has (RFC 3986) are percent-encoded, since servers answer 400 to them; what is encoded
/// already stays as it is. The parser encodes `'` in a query as well (WHATWG URL), and the HTTP client
/// takes no URL that was not made by it.
pub fn parse_url(text: &str) -> Result<Url, UrlError> {
    let url = Url::parse(text).map_err(|e| UrlError::Syntax(e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlError::Scheme(url.scheme().to_owned()));
    }
    let url = Url::parse(&as_uri(text)?).map_err(|e| UrlError::Syntax(e.to_string()))?;
    // What the HTTP client reads it with later; a URL that it refuses (65,535 bytes and more)
    // is known here, not at the first attempt.
    if let Err(error) = http::Uri::try_from(url.as_str()) {
        return Err(UrlError::Syntax(error.to_string()));
    }
    Ok(url)
}

/// What may stand in the path or the query of a URI without being encoded, beside letters and digits:
/// the unreserved characters, the delimiters, and the marks of what is encoded.
const TARGET: &AsciiSet = &TRACKER
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@')
    .remove(b'/')
    .remove(b'?')
    .remove(b'%');

/// The text of an http URL with its path and query encoded where no URI has such a character.
fn as_uri(text: &str) -> Result<String, UrlError> {
    let syntax = |what: &str| Err(UrlError::Syntax(what.to_owned()));
    // As the parser does it.
    let text = text.trim_matches(|c: char| c <= ' ');
    // A later `://`, in a query as likely as not, is no beginning of a host.
    let Some((scheme, rest)) = text
        .split_once("://")
        .filter(|(scheme, _)| ["http", "https"].iter().any(|it| it.eq_ignore_ascii_case(scheme)))
    else {
        return syntax("it has to begin with `http://` or `https://` and a host");
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.rsplit('@').next().is_none_or(str::is_empty) {
        return syntax("the host is empty");
    }
    if authority.contains(char::is_control) {
        return syntax("a control character or line break before the end of the host");
    }
    if target.starts_with('\\') {
        return syntax("a backslash after the host; a path begins with `/`");
    }
    let target = target.split_once('#').map_or(target, |(target, _)| target);
    let mut uri = format!("{scheme}://{authority}");
    for (at, part) in target.split('%').enumerate() {
        if at > 0 {
            let encoded = part.as_bytes().first_chunk::<2>();
            let is_encoded = encoded.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
            uri.push_str(if is_encoded { "%" } else { "%25" });
        }
        uri.extend(utf8_percent_encode(part, TARGET));
    }
    Ok(uri)
}

/// A URL that may hold a password, as it was handed in. Debug and Display leave the password
/// out, so that it gets nowhere by accident (contract, 3).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The whole text, for who calls it or stores it.
    pub fn reveal(&self) -> &str {
        &self.0
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

/// The URL as it may be shown: the password is `***` (contract, 3).
///
/// It works on text that is no URL as well, and then hides rather too much than too little.
pub fn redact_url(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    match Url::parse(text) {
        // Who reads it later reads it as the parser does, which takes many a spelling.
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

/// Hides what may be a password in what is no URL.
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

/// What may stand unescaped in a tracker URL: RFC 3986's unreserved characters.
const TRACKER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A tracker template with `{host}` filled in, percent-encoded: this machine's name.
pub fn tracker_template(template: &str, host: &str) -> String {
    template.replace("{host}", &utf8_percent_encode(host, TRACKER).to_string())
}

/// Fills `{jobId}` and `{jobIdFs}` into a tracker template, percent-encoded.
pub fn tracker_url(template: &str, job_id: &str, job_id_fs: &str) -> String {
    let encode = |text| utf8_percent_encode(text, TRACKER).to_string();
    let (job_id, job_id_fs) = (encode(job_id), encode(job_id_fs));
    // In pieces, so that a value is never taken for a part of the template.
    let pieces: Vec<_> =
        template.split("{jobId}").map(|piece| piece.replace("{jobIdFs}", &job_id_fs)).collect();
    pieces.join(&job_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_being_shown_and_read_and_sorts_as_its_number_does() {
        let (a, b) = (CallbackId::from_u128(1 << 64), CallbackId::from_u128(u128::MAX));
        assert_eq!(a.to_string().parse::<CallbackId>().unwrap(), a);
        assert_eq!(a.to_string().len(), 26);
        assert!(a.to_string() < b.to_string());
        assert!("x".parse::<CallbackId>().is_err());
        assert!("é".parse::<CallbackId>().is_err());
    }

    #[test]
    fn a_destination_always_names_its_port_and_ignores_case_path_and_user() {
        let of = |text: &str| Destination::parse(text).unwrap().to_string();
        assert_eq!(of("http://Host/x"), "http://host:80");
        assert_eq!(of("https://u:p@host"), "https://host:443");
        assert_eq!(of("http://[::1]:8080/a?b"), "http://[::1]:8080");
        assert_eq!(Destination::parse("host"), None);
        assert_eq!(Destination::parse("http://[::1]/").unwrap().host(), "[::1]");
        assert_eq!(Destination::none().host(), "");
    }

    #[test]
    fn only_http_and_https_urls_with_a_host_are_taken() {
        assert!(parse_url("http://callbackhost:8080/ourjobmanager/ourjobno/12345").is_ok());
        assert_eq!(parse_url("ftp://h/x"), Err(UrlError::Scheme("ftp".into())));
        for bad in [
            "",
            "host",
            "/path",
            "http://",
            "http://host:port/x",
            "http://a b/",
            "http:///ourjobmanager/ourjobno/12345",
            "http:////h/",
            "http:/h",
            "http:h",
            "http:\\\\h",
            "http:/h?to=http://other/",
            "http:h/x://y",
            "http:u:p@h/x://y",
            "http:/\\h",
            "http://\\h",
            "http://h\\x",
            "http://u:p@/x",
            "http://@/x",
            "http://?x",
            "http://h\nost/",
            "http://h\tost/",
            "http://host\r\n/",
            "ht\ntp://host/",
        ] {
            assert!(matches!(parse_url(bad), Err(UrlError::Syntax(_))), "{bad:?}");
        }
        assert!(parse_url(&format!("http://h/{}", "x".repeat(70_000))).is_err());
    }

    #[test]
    fn what_no_uri_has_is_encoded_and_what_is_encoded_stays() {
        for (handed_in, called) in [
            ("http://h/a|b^c[d]e{f}g\\h`i", "http://h/a%7Cb%5Ec%5Bd%5De%7Bf%7Dg%5Ch%60i"),
            ("http://h/?a|b^c[d]e{f}g\\h`i", "http://h/?a%7Cb%5Ec%5Bd%5De%7Bf%7Dg%5Ch%60i"),
            ("http://h/100%/%zz/%4/%41%7c?%", "http://h/100%25/%25zz/%254/%41%7c?%25"),
            ("http://h/a b\"<>\u{7f}é?ü", "http://h/a%20b%22%3C%3E%7F%C3%A9?%C3%BC"),
            ("http://h/a\nb", "http://h/a%0Ab"),
            ("http://h/!$&'()*+,;=:@-._~", "http://h/!$&'()*+,;=:@-._~"),
            ("http://h/a?b/c?d#e#f", "http://h/a?b/c?d"),
            (" http://h/a \n", "http://h/a"),
            ("http://h/a%20b", "http://h/a%20b"),
            ("http://[::1]:80/[x]", "http://[::1]/%5Bx%5D"),
            ("http://h?a=b", "http://h/?a=b"),
            ("HTTP://H", "http://h/"),
            ("http://h/?a='b'", "http://h/?a=%27b%27"),
        ] {
            assert_eq!(parse_url(handed_in).unwrap().as_str(), called, "{handed_in}");
        }
    }

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

    #[test]
    fn the_tracker_template_is_filled_in_percent_encoded() {
        assert_eq!(
            tracker_url("http://t/?a={jobId}&b={jobIdFs}&c={other}", "4 7/{jobIdFs}", "2016"),
            "http://t/?a=4%207%2F%7BjobIdFs%7D&b=2016&c={other}"
        );
        assert_eq!(tracker_url("{jobId{jobId}}", "Fs", "2016"), "{jobIdFs}");
    }
}
