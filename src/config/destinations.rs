//! The settings `destinations."…"`, and their earlier form `auth."…"`.

use std::{path::Path, time::Duration};

use figment::value::Value;
use http::{HeaderName, HeaderValue, header};

use super::{
    effective::Effective,
    files,
    reader::Reader,
    sections::small,
    values::{hash, quoted},
};
use crate::{
    callback::{Destination, Pattern, PatternMap, parse_url, redact_url},
    delivery::{
        schedule::limits::Rate,
        send::{
            credentials::{CredentialFile, read_line},
            headers::reserved,
            oauth,
            section::{self, HeaderSource},
        },
    },
};

const KEY: &str = "destinations";
const AUTH: &str = "auth";
const MS: Duration = Duration::from_millis(1);

/// A section of `destinations`. Other settings are those for all destinations.
#[derive(Debug, Clone, Default)]
pub struct Section {
    pub(super) send: section::Settings,
    pub(super) concurrency: Option<usize>,
    pub(super) rate: Option<Rate>,
    pub(super) max_age: Option<Duration>,
    pub(super) max_attempts: Option<u32>,
    /// Its keys, with the values that are set.
    pub(super) effective: Vec<Effective>,
}

/// Reads all sections. `timeout` is that of all destinations.
pub(super) fn sections(r: &mut Reader, timeout: Duration) -> PatternMap<Section> {
    let mut found: Vec<(Pattern, Section)> = Vec::new();
    let mut shown = Vec::new();
    for (name, value) in r.tables(KEY) {
        let pattern = match name.parse::<Pattern>() {
            Ok(pattern) if found.iter().any(|(known, _)| *known == pattern) => {
                r.fault(KEY, format!("{} has two sections", quoted(&pattern.to_string())));
                continue;
            }
            Ok(pattern) => pattern,
            Err(error) => {
                r.fault(KEY, format!("{}: {error}", quoted(&redact_url(&name))));
                continue;
            }
        };
        let section = in_section(r, KEY, &pattern, &value, |r| section(r, timeout));
        let sends_secrets = section.send.credentials.is_some()
            || section.send.oauth2.is_some()
            || section.send.headers.iter().any(|(_, it)| matches!(it, HeaderSource::File(_)));
        if sends_secrets && pattern.is_open() {
            let name = quoted(&pattern.to_string());
            r.warn(KEY, format!("{name} has secrets, and matches hosts of any owner; a pattern such as \"https://*.example.com\" matches those of one domain"));
        }
        shown.push(format!("{} = {}", quoted(&pattern.to_string()), inline(&section.effective)));
        found.push((pattern, section));
    }
    note(r, KEY, &shown, found.iter().map(|(_, section)| section));
    auth(r, &mut found);
    found.into_iter().collect()
}

/// The earlier form: sections that contain only credentials.
fn auth(r: &mut Reader, found: &mut Vec<(Pattern, Section)>) {
    let mut all = Vec::new();
    let mut shown = Vec::new();
    for (name, value) in r.tables(AUTH) {
        let Some(destination) = Destination::parse(&name) else {
            r.fault(
                AUTH,
                format!(
                    "invalid destination {}; expected scheme, host and port such as \"https://host:8443\"",
                    quoted(&redact_url(&name))
                ),
            );
            continue;
        };
        shown.push(format!("{} = \"***\"", quoted(destination.as_str())));
        let pattern = Pattern::from(destination);
        let name = quoted(&pattern.to_string());
        r.warn(AUTH, format!("is the earlier name of `destinations`: write [destinations.{name}]"));
        if found.iter().chain(&all).any(|(known, _)| *known == pattern) {
            r.fault(AUTH, format!("{name} has two sections"));
            continue;
        }
        let section = in_section(r, AUTH, &pattern, &value, |r| {
            let credentials = credentials(r);
            if r.faults.is_empty() && credentials.is_none() {
                r.fault("bearer_token_file", WANTED);
            }
            let send = section::Settings { credentials, ..section::Settings::default() };
            Section { send, ..Section::default() }
        });
        all.push((pattern, section));
    }
    note(r, AUTH, &shown, all.iter().map(|(_, section)| section));
    found.append(&mut all);
}

/// Notes all sections as one value.
fn note<'a>(
    r: &mut Reader,
    key: &'static str,
    shown: &[String],
    sections: impl Iterator<Item = &'a Section>,
) {
    r.note(key, (!shown.is_empty()).then(|| format!("{{ {} }}", shown.join(", "))));
    sections.for_each(|section| r.hide(key, hash(&section.effective)));
}

/// Reads a section with a separate reader, whose faults and warnings get the section's key.
fn in_section(
    r: &mut Reader,
    key: &str,
    pattern: &Pattern,
    value: &Value,
    read: impl FnOnce(&mut Reader) -> Section,
) -> Section {
    let name = format!("{key}.{}", quoted(&pattern.to_string()));
    let Some(mut own) = r.within_table(value) else {
        r.fault(key, format!("{} has to be a section", quoted(&pattern.to_string())));
        return Section::default();
    };
    let mut section = read(&mut own);
    own.reject_unknown();
    section.effective = std::mem::take(&mut own.effective);
    r.adopt(&name, own);
    section
}

/// The values that are set, as an inline table.
fn inline(effective: &[Effective]) -> String {
    let set =
        effective.iter().filter_map(|it| Some(format!("{} = {}", it.key, it.value.as_ref()?)));
    format!("{{ {} }}", set.collect::<Vec<_>>().join(", "))
}

fn section(r: &mut Reader, general_timeout: Duration) -> Section {
    let credentials = credentials(r);
    let oauth2 = optional(r, OAUTH2, oauth2).flatten();
    if credentials.is_some() && oauth2.is_some() {
        r.fault(OAUTH2, "excludes other credentials");
    }
    let concurrency = optional(r, "concurrency", |r, key| r.size(key, 1, 1, 100_000));
    let per_second =
        optional(r, "requests_per_second", |r, key| r.fraction(key, 1.0, 0.001, 100_000.0));
    let burst = optional(r, "burst", |r, key| small(r.number(key, 1, 1, 1_000_000)));
    if burst.is_some() && per_second.is_none() {
        r.fault("burst", "also requires requests_per_second");
    }
    let duration = |r: &mut Reader, key| optional(r, key, |r, key| r.duration(key, MS, MS));
    let connect_timeout = duration(r, "connect_timeout");
    let timeout = duration(r, "timeout");
    let covers = timeout.unwrap_or(general_timeout);
    if connect_timeout.is_some_and(|it| it > covers) {
        let of = if timeout.is_some() { "timeout" } else { "delivery.timeout" };
        r.fault("connect_timeout", format!("is longer than {of}, which covers it"));
    }
    Section {
        concurrency,
        rate: per_second.map(|per_second| Rate { per_second, burst: burst.unwrap_or(1) }),
        max_age: duration(r, "max_age"),
        max_attempts: optional(r, "max_attempts", |r, key| small(r.number(key, 0, 0, 1 << 30))),
        send: section::Settings {
            headers: headers(r, credentials.is_some() || oauth2.is_some()),
            oauth2,
            credentials,
            timeout,
            connect_timeout,
            ca_file: files::ca_file(r, "ca_file"),
            identity: files::pair(r, "client_cert_file", "client_key_file"),
        },
        effective: Vec::new(),
    }
}

/// The value of a key, if it is set.
fn optional<T>(
    r: &mut Reader,
    key: &'static str,
    read: impl FnOnce(&mut Reader, &'static str) -> T,
) -> Option<T> {
    if r.is_set(key) {
        return Some(read(r, key));
    }
    r.note(key, None);
    None
}

const WANTED: &str = "credentials are bearer_token_file, or username and password_file";

fn credentials(r: &mut Reader) -> Option<CredentialFile> {
    let keys = ["bearer_token_file", "username", "password_file"];
    let file = match keys.map(|key| r.text(key)) {
        [None, None, None] => return None,
        [Some(file), None, None] => CredentialFile::Bearer(file.into()),
        [None, Some(username), Some(file)] => {
            CredentialFile::Basic { username, password: file.into() }
        }
        set => {
            let key = keys.into_iter().zip(set).find_map(|(key, value)| value.map(|_| key));
            r.fault(key.unwrap_or(keys[0]), WANTED);
            return None;
        }
    };
    let key = if matches!(file, CredentialFile::Bearer(_)) { keys[0] } else { keys[2] };
    files::secret(r, key, file.path(), |_| file.read().map(drop));
    Some(file)
}

const OAUTH2: &str = "oauth2";

/// OAuth 2 client credentials.
fn oauth2(r: &mut Reader, key: &'static str) -> Option<oauth::Settings> {
    let Some(mut own) = r.within_table_of(key) else {
        r.fault(key, "has to be a section with token_url, client_id and client_secret_file");
        return None;
    };
    let [token_url, client_id, secret, scope] =
        ["token_url", "client_id", "client_secret_file", "scope"].map(|key| own.text(key));
    for (key, value) in
        [("token_url", &token_url), ("client_id", &client_id), ("client_secret_file", &secret)]
    {
        if value.is_none() && !own.is_set(key) {
            own.fault(key, "is required");
        }
    }
    let token_url = token_url.and_then(|text| match parse_url(&text) {
        Ok(url) if url.username().is_empty() && url.password().is_none() => Some(url),
        Ok(_) => {
            own.fault("token_url", "has a user; the client is client_id and client_secret_file");
            None
        }
        Err(_) => {
            let shown = quoted(&redact_url(&text));
            let wanted = "a URL such as \"https://login.example.com/oauth2/token\"";
            own.fault("token_url", format!("is {shown}, and has to be {wanted}"));
            None
        }
    });
    if let Some(secret) = &secret {
        files::secret(&mut own, "client_secret_file", Path::new(secret), |file| {
            read_line(file).map(drop)
        });
    }
    own.reject_unknown();
    r.note(key, Some(inline(&own.effective)));
    r.hide(key, hash(&own.effective));
    r.adopt(key, own);
    Some(oauth::Settings {
        token_url: token_url?,
        client_id: client_id?,
        client_secret_file: secret?.into(),
        scope,
    })
}

/// `headers`: texts, or files with one line.
fn headers(r: &mut Reader, has_credentials: bool) -> Vec<(HeaderName, HeaderSource)> {
    const KEY: &str = "headers";
    let mut found = Vec::new();
    let mut shown = Vec::new();
    let table = r.tables(KEY);
    let mut values = Vec::new();
    for (name, value) in table {
        let Ok(header) = HeaderName::try_from(name.as_str()) else {
            r.fault(KEY, format!("{} is not the name of a header", quoted(&name)));
            continue;
        };
        if found.iter().any(|(known, _)| *known == header) {
            r.fault(KEY, format!("{} is there twice", quoted(header.as_str())));
            continue;
        }
        let refused = match reserved(&header) {
            None if has_credentials && header == header::AUTHORIZATION => {
                Some("the section's credentials set it")
            }
            reserved => reserved,
        };
        if let Some(why) = refused {
            r.fault(KEY, format!("{} cannot be set: {why}", quoted(&name)));
            continue;
        }
        match source(&value) {
            Ok(source) => {
                if let HeaderSource::File(file) = &source {
                    files::warn_if_open(r, KEY, file);
                }
                match source.read() {
                    Ok(value) => values.push(value),
                    Err(error) => r.fault(KEY, format!("{}: {error}", quoted(&name))),
                }
                shown.push(match &source {
                    HeaderSource::Text(_) => format!("{header} = \"***\""),
                    HeaderSource::File(file) => {
                        format!("{header} = {{ file = {} }}", quoted(&file.to_string_lossy()))
                    }
                });
                found.push((header, source));
            }
            Err(why) => r.fault(KEY, format!("{}: {why}", quoted(&name))),
        }
    }
    r.note(KEY, (!shown.is_empty()).then(|| format!("{{ {} }}", shown.join(", "))));
    r.hide(KEY, hash(&values));
    found
}

fn source(value: &Value) -> Result<HeaderSource, &'static str> {
    const WANTED: &str = "a header is a text, or { file = \"…\" }";
    let text = match value {
        Value::String(_, text) => text.clone(),
        Value::Num(_, number) => number.to_i128().ok_or(WANTED)?.to_string(),
        Value::Dict(_, table) if table.len() == 1 => {
            let file = table.get("file").and_then(Value::as_str).ok_or(WANTED)?;
            return Ok(HeaderSource::File(file.into()));
        }
        _ => return Err(WANTED),
    };
    let value = HeaderValue::from_str(&text).ok().filter(|_| text.is_ascii());
    value.map(HeaderSource::Text).ok_or("the value has characters other than printable ASCII")
}
