//! Callback URLs as text: which are taken and where they lead, what is shown of them, and how a
//! tracker URL is filled in.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode;
use seal_dpf_urlcallback::{
    callback::{Destination, SecretUrl, parse_url, redact_url, tracker_url},
    egress::{DEFAULT_DENY, Policy},
};
use seal_dpf_urlcallback_fuzz::networks::{Net, denied};
use url::{Host, Url};

/// The bytes that are meant: what the parser passes over taken out, escapes undone.
fn meant(text: &str) -> Vec<u8> {
    let bytes: Vec<u8> = text.bytes().filter(|it| !matches!(it, b'\t' | b'\n' | b'\r')).collect();
    percent_decode(&bytes).collect()
}

fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).filter(|it| *it == part).count()
}

/// A password that the `url` crate finds is not in what is shown.
fn a_password_is_not_shown(text: &str, url: &Url) {
    // A star may be one of those that stand for the password.
    let Some(password) = url.password().map(meant).filter(|it| !it.contains(&b'*')) else { return };
    let shown = redact_url(text);
    if let Ok(again) = Url::parse(&shown) {
        assert!(matches!(again.password(), None | Some("***")), "{text:?} is shown as {shown:?}");
    }
    // Where it is in the text more than once, as in `http://a:a@a/`, it may be so again.
    if count(&meant(text), &password) == 1 {
        assert_eq!(count(&meant(&shown), &password), 0, "{text:?} is shown as {shown:?}");
    }
    let secret = SecretUrl::from(text.to_owned());
    assert_eq!([secret.to_string(), format!("{secret:?}")], [&*shown, &*shown]);
}

/// A second reading of how a callback URL has to begin: scheme, two slashes, and a host that is
/// there, without control characters or a backslash.
fn begins_well(text: &str) -> bool {
    let text = text.trim_matches(|c: char| c <= ' ');
    let rest = ["http://", "https://"].into_iter().find_map(|scheme| {
        let begin = text.get(..scheme.len())?;
        begin.eq_ignore_ascii_case(scheme).then(|| &text[scheme.len()..])
    });
    let Some(rest) = rest else { return false };
    let authority: String = rest.chars().take_while(|c| !"/?#\\".contains(*c)).collect();
    let host = authority.rsplit('@').next().unwrap_or_default();
    !host.is_empty()
        && !authority.chars().any(char::is_control)
        && !rest[authority.len()..].starts_with('\\')
}

/// What is called has the scheme, user, host and port that the parser finds, nothing in path and
/// query that no URI has, and stays the same when it is read again.
fn is_called_as_written(url: &Url, parsed: &Url) {
    let parts = |it: &Url| {
        let text = |part: &str| part.to_owned();
        let user = (text(it.username()), it.password().map(text));
        (text(it.scheme()), user, it.host_str().map(text), it.port())
    };
    assert_eq!(parts(url), parts(parsed));
    assert_eq!(parse_url(url.as_str()).as_ref(), Ok(url));
    let target = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    for (at, byte) in target.bytes().enumerate() {
        let is_mark = b"-._~!$&'()*+,;=:@/?".contains(&byte);
        let hex = target.as_bytes().get(at + 1..at + 3);
        let is_escape = byte == b'%' && hex.is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit));
        assert!(byte.is_ascii_alphanumeric() || is_mark || is_escape, "{url}");
    }
}

fn where_it_leads(text: &str, url: &Url) {
    assert!(matches!(url.scheme(), "http" | "https"));
    let host = url.host_str().filter(|host| !host.is_empty()).expect("a callback URL has a host");

    let destination = Destination::of(url);
    assert_eq!(Destination::parse(text).as_ref(), Some(&destination));
    assert_eq!(Destination::parse(destination.as_str()).as_ref(), Some(&destination));
    assert_eq!(Destination::from_stored(destination.as_str()), destination);
    assert_eq!(destination.host(), host);
    assert!(!destination.as_str().contains('@'));

    // The HTTP client gets the URL without user and password and reads it with another parser;
    // it must not find another host in it than the one that was looked at.
    let mut bare = url.clone();
    bare.set_username("").unwrap();
    bare.set_password(None).unwrap();
    let uri = http::Uri::try_from(bare.as_str()).expect("a callback URL can be called");
    assert_eq!((uri.host(), uri.port_u16()), (Some(host), url.port()), "{url}");

    let address: Option<IpAddr> = match url.host() {
        Some(Host::Ipv4(v4)) => Some(v4.into()),
        Some(Host::Ipv6(v6)) => Some(v6.into()),
        Some(Host::Domain(name)) => {
            // What reads as an address is connected to without a look-up.
            assert!(name.parse::<IpAddr>().is_err(), "{name} is an address");
            None
        }
        None => None,
    };
    let deny = DEFAULT_DENY.map(Net::parse);
    let expected = address.is_some_and(|it| denied(it.into(), &deny, &[]));
    assert_eq!(Policy::default().check_url(url).is_err(), expected, "{url}");
}

/// The template, filled in from left to right.
fn filled_in(mut template: &str, job_id: &str, job_id_fs: &str) -> String {
    let mut filled = String::new();
    while let Some(first) = template.chars().next() {
        let (value, rest) = if let Some(rest) = template.strip_prefix("{jobId}") {
            (job_id, rest)
        } else if let Some(rest) = template.strip_prefix("{jobIdFs}") {
            (job_id_fs, rest)
        } else {
            filled.push(first);
            template = &template[first.len_utf8()..];
            continue;
        };
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                filled.push(char::from(byte));
            } else {
                filled.push_str(&format!("%{byte:02X}"));
            }
        }
        template = rest;
    }
    filled
}

fuzz_target!(|text: &str| {
    let parsed = Url::parse(text);
    if let Ok(url) = &parsed {
        a_password_is_not_shown(text, url);
    } else if let Ok(url) = Url::parse(&format!("http://{text}")) {
        // Somebody forgot the scheme.
        a_password_is_not_shown(text, &url);
    }
    // Of what is no URL rather too much is hidden than too little.
    if !text.contains('@') && parsed.as_ref().is_ok_and(Url::has_authority) {
        assert_eq!(redact_url(text), text);
    }
    match parse_url(text) {
        Ok(url) => {
            assert!(begins_well(text), "{text:?} is taken as {url}");
            is_called_as_written(&url, parsed.as_ref().expect("it is a URL"));
            where_it_leads(text, &url);
        }
        Err(error) => {
            // What the `url` crate takes is refused for how it begins, for marks in its host, which
            // no host name has, or for its length, which encoding may make three times what it was.
            if let Ok(url) = parsed.as_ref()
                && matches!(url.scheme(), "http" | "https")
                && begins_well(text)
            {
                let host = url.host_str().unwrap_or_default();
                let odd = http::Uri::try_from(format!("http://{host}/")).is_err();
                assert!(odd || text.len() > 65_000 / 3, "{url} is refused: {error}");
            }
        }
    }
    let mut parts = text.splitn(3, '\n');
    if let (Some(template), Some(id), Some(fs)) = (parts.next(), parts.next(), parts.next()) {
        assert_eq!(tracker_url(template, id, fs), filled_in(template, id, fs));
    }
});
