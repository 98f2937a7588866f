//! Settings that consist of more than one value.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

use super::{
    files,
    reader::Reader,
    values::{hash, quoted},
};
use crate::{
    api,
    callback::{self, SecretUrl},
    delivery::{
        retry,
        schedule::breaker,
        send::{attempt, signing},
    },
    egress::{DEFAULT_DENY, Policy},
    outbox::{self, Retention},
    telemetry,
};

pub(super) fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The URL template of a job's page at DPF Tracker; `None` if it is set to the empty text.
pub(super) fn tracker_template(r: &mut Reader) -> Option<String> {
    let template = r.text_or_nothing("tracker.url_template", callback::DEFAULT_TRACKER_TEMPLATE)?;
    let host = gethostname::gethostname();
    Some(callback::tracker_template(&template, &host.to_string_lossy()))
}

pub(super) fn api_settings(r: &mut Reader, data_dir: &Path) -> api::Settings {
    let default = api::Settings::default();
    let listen = r.text_or("api.listen", &default.listen.to_string());
    let listen = listen.parse().unwrap_or_else(|_| {
        let message = format!("is {listen:?}, and has to be an address and a port such as \"127.0.0.1:9126\" or \"[::1]:9126\"");
        r.fault("api.listen", message);
        default.listen
    });
    let token_file = data_dir.join(&default.token_file);
    let token_file = PathBuf::from(r.text_or("api.token_file", &token_file.to_string_lossy()));
    let read_token_file = files::read_token(r, &token_file);
    let idle_timeout =
        r.duration("api.idle_timeout", default.idle_timeout, Duration::from_millis(100));
    let max_event_bytes = r.size("api.max_event_bytes", default.max_event_bytes, 256, 16 << 20);
    let max_batch_bytes = r.size("api.max_batch_bytes", default.max_batch_bytes, 256, 1 << 40);
    if max_batch_bytes < max_event_bytes {
        r.fault("api.max_batch_bytes", "is smaller than api.max_event_bytes");
    }
    let metrics_destinations =
        r.size("metrics.destinations", default.metrics_destinations, 0, 1000);
    files::warn_if_open(r, "api.token_file", &token_file);
    let tls = files::pair(r, "api.tls_cert_file", "api.tls_key_file");
    if tls.is_none() && !listen.ip().to_canonical().is_loopback() {
        r.warn(
            "api.listen",
            format!("{listen} is reachable from other machines, and without api.tls_cert_file and api.tls_key_file the token crosses the network in plain text"),
        );
    }
    api::Settings {
        listen,
        token_file_is_set: r.is_set("api.token_file"),
        token_file,
        read_token_file,
        tls,
        idle_timeout,
        max_event_bytes,
        max_batch_bytes,
        metrics_destinations,
    }
}

pub(super) fn outbox_settings(r: &mut Reader) -> outbox::sled::Settings {
    let default = outbox::sled::Settings::default();
    outbox::sled::Settings {
        cache_bytes: r.number("outbox.cache_bytes", default.cache_bytes, 1 << 20, 1 << 40),
        common: outbox::Common {
            max_pending: r.number("outbox.max_pending", default.common.max_pending, 1, 1 << 40),
            ..default.common
        },
        min_free_bytes: r.number("outbox.min_free_bytes", default.min_free_bytes, 0, 1 << 50),
    }
}

pub(super) fn retention(r: &mut Reader) -> Retention {
    const MS: Duration = Duration::from_millis(1);
    let default = Retention::default();
    Retention {
        delivered: r.duration("retention.delivered", default.delivered, MS),
        failed: r.duration("retention.failed", default.failed, MS),
    }
}

pub(super) fn attempt_settings(r: &mut Reader) -> attempt::Settings {
    const MS: Duration = Duration::from_millis(1);
    let default = attempt::Settings::default();
    let (max_response, excerpt) = (default.max_response_bytes, default.excerpt_bytes);
    attempt::Settings {
        timeout: r.duration("delivery.timeout", default.timeout, MS),
        max_response_bytes: r.size("delivery.max_response_bytes", max_response, 0, 1 << 30),
        excerpt_bytes: r.size("delivery.excerpt_bytes", excerpt, 0, 65_536),
    }
}

pub(super) fn breaker_settings(r: &mut Reader) -> breaker::Settings {
    const MS: Duration = Duration::from_millis(1);
    let default = breaker::Settings::default();
    let settings = breaker::Settings {
        failures: small(r.number("breaker.failures", default.failures.into(), 0, 1_000_000)),
        initial_pause: r.duration("breaker.initial_pause", default.initial_pause, MS),
        max_pause: r.duration("breaker.max_pause", default.max_pause, MS),
    };
    if settings.initial_pause > settings.max_pause {
        r.fault("breaker.initial_pause", "is longer than breaker.max_pause");
    }
    settings
}

pub(super) fn retry_settings(r: &mut Reader) -> retry::Settings {
    const MS: Duration = Duration::from_millis(1);
    let default = retry::Settings::default();
    let settings = retry::Settings {
        initial_interval: r.duration("retry.initial_interval", default.initial_interval, MS),
        multiplier: r.fraction("retry.multiplier", default.multiplier, 1.0, 100.0),
        max_interval: r.duration("retry.max_interval", default.max_interval, MS),
        jitter: r.fraction("retry.jitter", default.jitter, 0.0, 1.0),
        max_age: r.duration("retry.max_age", default.max_age, MS),
        max_attempts: small(r.number(
            "retry.max_attempts",
            default.max_attempts.into(),
            0,
            1 << 30,
        )),
        max_retry_after: r.duration(
            "retry.max_retry_after",
            default.max_retry_after,
            Duration::ZERO,
        ),
        final_statuses: statuses(r, default.final_statuses),
        keys: default.keys,
    };
    if settings.initial_interval > settings.max_interval {
        r.fault("retry.initial_interval", "is longer than retry.max_interval");
    }
    settings
}

pub(super) fn statuses(r: &mut Reader, default: BTreeSet<u16>) -> BTreeSet<u16> {
    const KEY: &str = "retry.final_statuses";
    let found = match r.numbers(KEY) {
        None => default,
        Some(numbers) => {
            let mut found = BTreeSet::new();
            for number in numbers {
                match u16::try_from(number) {
                    Ok(status @ 300..=599) => {
                        found.insert(status);
                    }
                    _ => r.fault(KEY, format!("has {number}; a final status is from 300 to 599")),
                }
            }
            found
        }
    };
    let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
    r.note(KEY, Some(format!("[{}]", shown.join(", "))));
    found
}

pub(super) fn egress_policy(r: &mut Reader) -> Policy {
    let default: Vec<String> = DEFAULT_DENY.iter().map(ToString::to_string).collect();
    Policy {
        deny: networks(r, "egress.deny", default),
        allow: networks(r, "egress.allow", Vec::new()),
        https_only: r.flag("egress.https_only", false),
        own: None,
    }
}

pub(super) fn networks(r: &mut Reader, key: &'static str, default: Vec<String>) -> Vec<IpNet> {
    let texts = r.texts(key).unwrap_or(default);
    let mut found = Vec::with_capacity(texts.len());
    for text in &texts {
        match text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
            Some(net) => found.push(net),
            None => {
                let message = format!(
                    "has {text:?}, which is not a network such as \"10.0.0.0/8\" or \"fe80::/10\""
                );
                r.fault(key, message);
            }
        }
    }
    let shown: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    r.note(key, Some(format!("[{}]", shown.join(", "))));
    found
}

pub(super) fn proxy(r: &mut Reader) -> Option<SecretUrl> {
    const KEY: &str = "egress.proxy";
    let text = r.text(KEY)?;
    let proxy = SecretUrl::from(text);
    r.show(KEY, &proxy);
    let is_text = |part| percent_encoding::percent_decode_str(part).decode_utf8().is_ok();
    match url::Url::parse(proxy.reveal()) {
        // The HTTP client would put U+FFFD in the place of the octets, and never get in.
        Ok(url)
            if url.scheme().starts_with("socks")
                && !(is_text(url.username()) && url.password().is_none_or(is_text)) =>
        {
            r.fault(
                KEY,
                "has a user or password that is not UTF-8, which cannot be sent to a SOCKS proxy",
            );
            None
        }
        Ok(url)
            if url.has_host()
                && matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") =>
        {
            Some(proxy)
        }
        _ => {
            r.fault(KEY, "has to be a URL such as \"http://proxy:3128\" with the scheme http, https, socks5 or socks5h");
            None
        }
    }
}

pub(super) fn secrets(r: &mut Reader) -> Vec<signing::Secret> {
    const KEY: &str = "signing.secrets";
    let texts = r.texts(KEY).unwrap_or_default();
    let mut found = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match signing::Secret::parse(text) {
            Ok(secret) => found.push(secret),
            Err(error) => r.fault(KEY, format!("secret {}: {error}", index + 1)),
        }
    }
    r.note(KEY, Some(format!("[{}]", vec!["\"***\""; texts.len()].join(", "))));
    r.hide(KEY, hash(&texts));
    found
}

pub(super) fn log_settings(r: &mut Reader, data_dir: &Path) -> telemetry::Settings {
    let level = r.text_or("log.level", "info");
    let level = telemetry::parse_level(&level).unwrap_or_else(|| {
        r.fault(
            "log.level",
            format!("is {level:?}, and has to be error, warn, info, debug, trace or off"),
        );
        telemetry::DEFAULT_LEVEL
    });
    let target = match r.text("log.file") {
        None => telemetry::Target::Default { fallback: data_dir.join(telemetry::FILE_NAME) },
        Some(text) if text == "-" => telemetry::Target::StandardError,
        Some(text) => telemetry::Target::File(PathBuf::from(text)),
    };
    let default = telemetry::Rotation::default();
    let rotation = telemetry::Rotation {
        max_bytes: r.number("log.max_bytes", default.max_bytes, 0, 1 << 40),
        keep: r.number("log.keep", default.keep, 1, 1000),
    };
    telemetry::Settings { level, target, rotation }
}
