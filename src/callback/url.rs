//! Callback URLs: which are accepted, and what is called.

use percent_encoding::{AsciiSet, utf8_percent_encode};
use url::Url;

use super::tracker::TRACKER;

/// Why a URL can never be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL.
    #[error("the callback URL is not valid: {0}")]
    Syntax(String),
    /// Only `http` and `https` are called.
    #[error("the callback URL's scheme is `{0}`; only http and https are called")]
    Scheme(String),
}

/// Reads a callback URL: it must parse, be absolute, name a host, and be http or https.
///
/// The parser is a browser's: it accepts `http:/host`, and reads `http:///path` (from a template with an
/// empty variable) as the host `path`. Both are refused here. Characters that RFC 3986 does not allow in
/// path and query are percent-encoded, since servers answer 400 to them; existing percent-encoding is
/// kept. The parser also encodes `'` in a query (WHATWG URL).
pub fn parse_url(text: &str) -> Result<Url, UrlError> {
    let syntax = |error: url::ParseError| UrlError::Syntax(error.to_string());
    let uri = as_uri(text).or_else(|error| {
        // The parser may have a more specific error.
        let url = Url::parse(text).map_err(syntax)?;
        let web = matches!(url.scheme(), "http" | "https");
        Err(if web { error } else { UrlError::Scheme(url.scheme().to_owned()) })
    })?;
    let url = Url::parse(&uri).map_err(syntax)?;
    // The HTTP client parses the URL with this parser; a URL that it rejects (65,535 bytes and more) is
    // detected here and not at the first attempt.
    if let Err(error) = http::Uri::try_from(url.as_str()) {
        return Err(UrlError::Syntax(error.to_string()));
    }
    Ok(url)
}

/// The characters that are not encoded in the path or the query of a URI, in addition to letters and
/// digits: the unreserved characters, the delimiters, and the marks of what is encoded.
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

/// The text of an http URL, with path and query percent-encoded where needed.
fn as_uri(text: &str) -> Result<String, UrlError> {
    let syntax = |what: &str| Err(UrlError::Syntax(what.to_owned()));
    // As the parser does it.
    let text = text.trim_matches(|c: char| c <= ' ');
    // A later `://`, in a query as likely as not, is no beginning of a host.
    let Some((scheme, rest)) = text
        .split_once("://")
        .filter(|(scheme, _)| ["http", "https"].iter().any(|it| it.eq_ignore_ascii_case(scheme)))
    else {
        return syntax("it must begin with `http://` or `https://` and a host");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_and_https_urls_with_a_host_are_accepted() {
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
    fn invalid_characters_are_percent_encoded_once() {
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
}
