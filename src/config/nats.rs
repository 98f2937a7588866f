//! The settings `nats.*`.

use std::{path::PathBuf, time::Duration};

use figment::value::Value;

use super::{files, reader::Reader, values::quoted};
use crate::{
    callback::redact_url,
    outbox::OutcomeEvents,
    sources::nats::{Access, Settings, subjects},
};

const SERVERS: &str = "nats.servers";
const EVENTS: &str = "nats.events";
const OUTCOME_SUBJECT: &str = "nats.outcome_subject";
const USER: &str = "nats.user";
const PASSWORD_FILE: &str = "nats.password_file";

/// The source of events from NATS, if one is configured.
pub(super) fn settings(r: &mut Reader, max_event_bytes: usize) -> Option<Settings> {
    let servers = servers(r);
    let stream = name(r, "nats.stream");
    let consumer = name(r, "nats.consumer");
    let create_consumer = r.flag("nats.create_consumer", false);
    let filter_subjects = r.texts("nats.filter_subjects").unwrap_or_default();
    note_list(r, "nats.filter_subjects", &filter_subjects);
    for subject in &filter_subjects {
        if let Some(why) = subjects::fault(subject, true) {
            r.fault("nats.filter_subjects", format!("has {}, which {why}", quoted(subject)));
        }
    }
    let events = events(r);
    let batch = r.size("nats.batch", 500, 1, 1000);
    let ack_wait = r.duration("nats.ack_wait", Duration::from_secs(30), Duration::from_secs(10));
    let dead_letter_subject = r.text("nats.dead_letter_subject");
    if let Some(subject) = &dead_letter_subject
        && let Some(why) = subjects::fault(subject, false)
    {
        r.fault("nats.dead_letter_subject", format!("is {}, which {why}", quoted(subject)));
    }
    let outcome_events = outcome_events(r);
    let access = access(r);
    let ca_file = files::ca_file(r, "nats.ca_file");
    let identity = files::pair(r, "nats.client_cert_file", "nats.client_key_file");
    let tls_first = r.flag("nats.tls_first", false);
    if servers.is_empty() {
        for key in KEYS {
            if r.is_set(key) {
                r.fault(key, format!("also requires {SERVERS}"));
            }
        }
        return None;
    }
    for (key, value) in [("nats.stream", &stream), ("nats.consumer", &consumer)] {
        if value.is_none() && !r.is_set(key) {
            r.fault(SERVERS, format!("also requires {key}"));
        }
    }
    Some(Settings {
        servers,
        stream: stream?,
        consumer: consumer?,
        create_consumer,
        filter_subjects,
        events,
        batch,
        ack_wait,
        dead_letter_subject,
        outcome_events,
        access,
        ca_file,
        identity,
        tls_first,
        max_event_bytes,
    })
}

/// The keys without a default, which have no effect without `nats.servers`.
const KEYS: [&str; 13] = [
    "nats.stream",
    "nats.consumer",
    EVENTS,
    "nats.dead_letter_subject",
    OUTCOME_SUBJECT,
    "nats.credentials_file",
    "nats.nkey_file",
    USER,
    PASSWORD_FILE,
    "nats.token_file",
    "nats.ca_file",
    "nats.client_cert_file",
    "nats.client_key_file",
];

fn note_list(r: &mut Reader, key: &'static str, texts: &[String]) {
    let shown: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    r.note(key, Some(format!("[{}]", shown.join(", "))));
}

fn servers(r: &mut Reader) -> Vec<String> {
    let servers = r.texts(SERVERS).unwrap_or_default();
    let shown: Vec<_> = servers.iter().map(|server| redact_url(server)).collect();
    note_list(r, SERVERS, &shown);
    for (server, shown) in servers.iter().zip(shown) {
        let shown = quoted(&shown);
        match server.parse::<async_nats::ServerAddr>() {
            Ok(address) if address.is_websocket() || address.host().is_empty() => {
                r.fault(SERVERS, format!("has {shown}, and has to have URLs such as \"nats://host:4222\" or \"tls://host:4222\""));
            }
            Ok(address) if address.has_user_pass() || server.contains('@') => {
                r.fault(
                    SERVERS,
                    format!("has {shown} with a user, a password or a token, which belong in {USER}, {PASSWORD_FILE} and nats.token_file"),
                );
            }
            Ok(_) => {}
            Err(_) => r.fault(
                SERVERS,
                format!("has {shown}, and has to have URLs such as \"nats://host:4222\""),
            ),
        }
    }
    servers
}

/// The name of a stream or consumer.
fn name(r: &mut Reader, key: &'static str) -> Option<String> {
    let name = r.text(key)?;
    let is_bad =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    // With the stream's time and a message's number it is an idempotency key.
    if name.len() > 200 || name.contains(is_bad) {
        r.fault(
            key,
            format!(
                "is {}, and has to be a name of at most 200 bytes without white space, . * > / and \\",
                quoted(&name)
            ),
        );
        return None;
    }
    Some(name)
}

fn events(r: &mut Reader) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut shown = Vec::new();
    for (subject, value) in r.tables(EVENTS) {
        if let Some(why) = subjects::fault(&subject, true) {
            r.fault(EVENTS, format!("has {}, which {why}", quoted(&subject)));
        }
        match value {
            Value::String(_, event)
                if ["job_sending", "job_finished"].contains(&event.as_str()) =>
            {
                shown.push(format!("{} = {}", quoted(&subject), quoted(&event)));
                found.push((subject, event));
            }
            _ => r.fault(
                EVENTS,
                format!("{} has to be \"job_sending\" or \"job_finished\"", quoted(&subject)),
            ),
        }
    }
    r.note(EVENTS, (!shown.is_empty()).then(|| format!("{{ {} }}", shown.join(", "))));
    found
}

/// The subject is the host of the URLs under which outcome events are stored.
fn outcome_events(r: &mut Reader) -> Option<OutcomeEvents> {
    let subject = r.text(OUTCOME_SUBJECT)?;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let fault = match subjects::fault(&subject, false) {
        Some(why) => Some(why.to_owned()),
        None if !subject.chars().all(is_allowed) || subject.len() > 200 => Some(
            "has other characters than letters, digits, . - and _, or more than 200".to_owned(),
        ),
        None => None,
    };
    if let Some(why) = fault {
        r.fault(OUTCOME_SUBJECT, format!("is {}, which {why}", quoted(&subject)));
        return None;
    }
    Some(OutcomeEvents::new(&subject))
}

fn access(r: &mut Reader) -> Access {
    let mut found = Vec::new();
    for (key, make) in [
        ("nats.credentials_file", Access::Credentials as fn(PathBuf) -> Access),
        ("nats.nkey_file", Access::Nkey),
        ("nats.token_file", Access::Token),
    ] {
        if let Some(file) = r.text(key) {
            found.push((key, make(file.into())));
        }
    }
    match (r.text(USER), r.text(PASSWORD_FILE)) {
        (Some(user), Some(file)) => {
            found.push((PASSWORD_FILE, Access::Password { user, file: file.into() }));
        }
        (Some(_), None) => r.fault(USER, format!("also requires {PASSWORD_FILE}")),
        (None, Some(_)) => r.fault(PASSWORD_FILE, format!("also requires {USER}")),
        (None, None) => {}
    }
    for (key, access) in &found {
        match access.check() {
            Ok(()) => {
                if let Some(file) = access.file() {
                    files::warn_if_open(r, key, file);
                }
            }
            Err(fault) => r.fault(key, fault.to_string()),
        }
    }
    if let [(first, _), others @ ..] = found.as_slice() {
        for (other, _) in others {
            r.fault(other, format!("cannot be combined with {first}"));
        }
    }
    found.into_iter().next().map_or(Access::Anonymous, |(_, access)| access)
}
