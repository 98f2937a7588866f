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
    if !text.contains('@') {
        assert_eq!(redact_url(text), text);
    }
    match parse_url(text) {
        Ok(url) => {
            assert_eq!(Ok(&url), parsed.as_ref());
            where_it_leads(text, &url);
        }
        Err(error) => {
            // What the `url` crate takes is refused for its length or for marks in its host, which
            // no host name has.
            if let Ok(url) = parsed.as_ref()
                && matches!(url.scheme(), "http" | "https")
            {
                let host = url.host_str().unwrap_or_default();
                let odd = http::Uri::try_from(format!("http://{host}/")).is_err();
                assert!(odd || url.as_str().len() > 65_000, "{url} is refused: {error}");
            }
        }
    }
    let mut parts = text.splitn(3, '\n');
    if let (Some(template), Some(id), Some(fs)) = (parts.next(), parts.next(), parts.next()) {
        assert_eq!(tracker_url(template, id, fs), filled_in(template, id, fs));
    }
});
