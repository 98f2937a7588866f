//! Raw TOML and environment → a checked [`Config`]. Every module owns the settings that it
//! gets; this one knows their keys, defaults and limits (contract, 6).

mod files;
mod reader;
mod source;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use figment::{Figment, providers::Env};
use ipnet::IpNet;

pub use self::reader::{Effective, Fault};
use crate::{
    api,
    callback::{self, SecretUrl},
    config::reader::{Reader, quoted},
    delivery::{
        retry,
        schedule::breaker,
        send::{attempt, client, signing},
        settings,
    },
    egress::{DEFAULT_DENY, Policy},
    outbox::{self, Retention},
    telemetry,
};

/// What the names of our environment variables begin with.
pub const ENV_PREFIX: &str = "URLCALLBACK__";

/// The file that is read where `--config` names none.
pub const DEFAULT_FILE: &str = "config.toml";

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Outbox, token and lock.
    pub data_dir: PathBuf,
    /// The HTTP API.
    pub api: api::Settings,
    /// Where a job's page is, with `{jobId}` and `{jobIdFs}`; `None`: nowhere.
    pub tracker_template: Option<String>,
    /// The store.
    pub outbox: outbox::sled::Settings,
    /// How long finished callbacks are kept.
    pub retention: Retention,
    /// The delivery loop.
    pub dispatcher: settings::Settings,
    /// One attempt.
    pub attempt: attempt::Settings,
    /// The HTTP client.
    pub client: client::Settings,
    /// What may be called.
    pub egress: Policy,
    /// What signs.
    pub secrets: Vec<signing::Secret>,
    /// The log.
    pub log: telemetry::Settings,
    /// Every key with the value in force.
    pub effective: Vec<Effective>,
    /// What works and is most likely a mistake.
    pub warnings: Vec<Fault>,
}

/// The settings are not usable.
#[derive(Debug)]
pub struct ConfigError(pub Vec<Fault>);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.0.len();
        write!(f, "{n} fault{} in the settings:", if n == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads `file`, or `config.toml` here where there is one, and then the environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        let text = match file {
            Some(file) => source::named(file).map(Some),
            None => source::default(Path::new(DEFAULT_FILE)),
        };
        if let Some(text) = text.map_err(|fault| ConfigError(vec![fault]))? {
            figment = figment.merge(text);
        }
        let not_utf8 = not_utf8();
        if !not_utf8.is_empty() {
            return Err(ConfigError(not_utf8));
        }
        let level = Env::raw().only(&["LOG_LEVEL"]).map(|_| "log.level".into());
        let ours = Env::prefixed(ENV_PREFIX).split("__");
        Self::read(figment.merge(level).merge(ours))
    }

    /// The defaults alone, without file or environment.
    pub fn defaults() -> Result<Self, ConfigError> {
        Self::read(Figment::new())
    }

    /// How long callbacks are tried and kept.
    pub fn terms(&self) -> api::view::Terms {
        api::view::Terms { max_age: self.dispatcher.retry.max_age, retention: self.retention }
    }

    fn read(figment: Figment) -> Result<Self, ConfigError> {
        const MS: Duration = Duration::from_millis(1);
        const GIB: u64 = 1 << 30;
        let mut r = Reader::new(figment);
        // Without a slash at its end, which would hide that it is a symbolic link.
        let data_dir: PathBuf = Path::new(&r.text_or("data_dir", "data")).components().collect();
        let shutdown_grace = r.duration("shutdown_grace", Duration::from_secs(30), Duration::ZERO);
        let api = api_settings(&mut r, &data_dir);
        let tracker_template = tracker_template(&mut r);
        let store = outbox::sled::Settings::default();
        let mut outbox = outbox::sled::Settings {
            cache_bytes: r.number("outbox.cache_bytes", store.cache_bytes, 1 << 20, 1024 * GIB),
            max_pending: r.number("outbox.max_pending", store.max_pending, 1, 1 << 40),
            min_free_bytes: r.number("outbox.min_free_bytes", store.min_free_bytes, 0, 1 << 50),
            ..store
        };
        let day = Duration::from_hours(24);
        let retention = Retention {
            delivered: r.duration("retention.delivered", 7 * day, MS),
            failed: r.duration("retention.failed", 30 * day, MS),
        };
        let concurrency = r.size("delivery.concurrency", 256, 1, 100_000);
        let per_destination = r.size("delivery.per_destination", 16, 1, 100_000);
        let max_unsettled = r.size("delivery.max_unsettled", 4 * concurrency, 1, 1_000_000);
        if max_unsettled < concurrency {
            r.fault("delivery.max_unsettled", "is smaller than delivery.concurrency");
        }
        let connect_timeout = r.duration("delivery.connect_timeout", Duration::from_secs(5), MS);
        let one = attempt::Settings::default();
        let attempt = attempt::Settings {
            timeout: r.duration("delivery.timeout", one.timeout, MS),
            max_response_bytes: r.size(
                "delivery.max_response_bytes",
                one.max_response_bytes,
                0,
                GIB,
            ),
            excerpt_bytes: r.size("delivery.excerpt_bytes", one.excerpt_bytes, 0, 65_536),
        };
        if connect_timeout > attempt.timeout && r.is_set("delivery.connect_timeout") {
            r.fault("delivery.connect_timeout", "is longer than delivery.timeout, which covers it");
        }
        let retry = retry_settings(&mut r);
        outbox.longest_pause = retry.longest_pause();
        let rest = breaker::Settings::default();
        let breaker = breaker::Settings {
            failures: small(r.number("breaker.failures", rest.failures.into(), 0, 1_000_000)),
            initial_pause: r.duration("breaker.initial_pause", rest.initial_pause, MS),
            max_pause: r.duration("breaker.max_pause", rest.max_pause, MS),
        };
        if breaker.initial_pause > breaker.max_pause {
            r.fault("breaker.initial_pause", "is longer than breaker.max_pause");
        }
        let mut egress = egress_policy(&mut r);
        egress.own = Some(api.listen);
        let client = client::Settings {
            connect_timeout,
            per_destination,
            proxy: proxy(&mut r),
            ca_file: files::ca_file(&mut r),
            identity: files::pair(&mut r, "tls.client_cert_file", "tls.client_key_file"),
            auth: files::auth(&mut r),
        };
        let secrets = secrets(&mut r);
        for key in ["signing.secrets", "egress.proxy"] {
            if let Some(file) = r.file(key) {
                files::warn_if_open(&mut r, key, &file);
            }
        }
        let log = log_settings(&mut r, &data_dir);
        r.reject_unknown();
        if !r.faults.is_empty() {
            return Err(ConfigError(r.faults));
        }
        let dispatcher = settings::Settings {
            concurrency,
            per_destination,
            max_unsettled,
            breaker,
            retry,
            shutdown_grace,
        };
        Ok(Self {
            data_dir,
            api,
            tracker_template,
            outbox,
            retention,
            dispatcher,
            attempt,
            client,
            egress,
            secrets,
            log,
            effective: r.effective,
            warnings: r.warnings,
        })
    }
}

/// What is set in the environment and is no UTF-8: it would be passed over, or be another path.
fn not_utf8() -> Vec<Fault> {
    let ours = std::env::vars_os().filter(|(name, value)| {
        let name = name.to_string_lossy();
        (name.starts_with(ENV_PREFIX) || name == "LOG_LEVEL") && value.to_str().is_none()
    });
    let fault = |(name, _): (std::ffi::OsString, _)| Fault {
        key: name.to_string_lossy().into_owned(),
        place: None,
        message: "is not UTF-8; settings are UTF-8, and so is every path in them".into(),
    };
    ours.map(fault).collect()
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The page of a job at DPF Tracker, as the seed shows it; `None` where it is set to nothing.
fn tracker_template(r: &mut Reader) -> Option<String> {
    const DEFAULT: &str = "http://{host}:9125/cgi-bin/dpftracker?job={jobIdFs}";
    let template = r.text_or_nothing("tracker.url_template", DEFAULT)?;
    let host = gethostname::gethostname();
    Some(callback::tracker_template(&template, &host.to_string_lossy()))
}

fn api_settings(r: &mut Reader, data_dir: &Path) -> api::Settings {
    let listen = r.text_or("api.listen", "127.0.0.1:9126");
    let listen = listen.parse().unwrap_or_else(|_| {
        let message = format!("is {listen:?}, and has to be an address and a port such as \"127.0.0.1:9126\" or \"[::1]:9126\"");
        r.fault("api.listen", message);
        SocketAddr::from(([127, 0, 0, 1], 9126))
    });
    let default = data_dir.join("api-token");
    let token_file = PathBuf::from(r.text_or("api.token_file", &default.to_string_lossy()));
    let idle_timeout =
        r.duration("api.idle_timeout", Duration::from_secs(75), Duration::from_millis(100));
    let max_event_bytes = r.size("api.max_event_bytes", 65_536, 256, 16 << 20);
    let max_batch_bytes = r.size("api.max_batch_bytes", 67_108_864, 256, 1 << 40);
    if max_batch_bytes < max_event_bytes {
        r.fault("api.max_batch_bytes", "is smaller than api.max_event_bytes");
    }
    let metrics_destinations = r.size("metrics.destinations", 20, 0, 1000);
    files::warn_if_open(r, "api.token_file", &token_file);
    let tls = files::pair(r, "api.tls_cert_file", "api.tls_key_file");
    if tls.is_none() && !listen.ip().to_canonical().is_loopback() {
        r.warn(
            "api.listen",
            format!("{listen} may be reached from other machines, and without api.tls_cert_file and api.tls_key_file the token crosses the network for everybody to read"),
        );
    }
    api::Settings {
        listen,
        token_file_is_set: r.is_set("api.token_file"),
        token_file,
        tls,
        idle_timeout,
        max_event_bytes,
        max_batch_bytes,
        metrics_destinations,
    }
}

fn retry_settings(r: &mut Reader) -> retry::Settings {
    const MS: Duration = Duration::from_millis(1);
    let d = retry::Settings::default();
    let settings = retry::Settings {
        initial_interval: r.duration("retry.initial_interval", d.initial_interval, MS),
        multiplier: r.fraction("retry.multiplier", d.multiplier, 1.0, 100.0),
        max_interval: r.duration("retry.max_interval", d.max_interval, MS),
        jitter: r.fraction("retry.jitter", d.jitter, 0.0, 1.0),
        max_age: r.duration("retry.max_age", d.max_age, MS),
        max_attempts: small(r.number("retry.max_attempts", d.max_attempts.into(), 0, 1 << 30)),
        max_retry_after: r.duration("retry.max_retry_after", d.max_retry_after, Duration::ZERO),
        final_statuses: statuses(r, d.final_statuses),
    };
    if settings.initial_interval > settings.max_interval {
        r.fault("retry.initial_interval", "is longer than retry.max_interval");
    }
    settings
}

fn statuses(r: &mut Reader, default: BTreeSet<u16>) -> BTreeSet<u16> {
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

fn egress_policy(r: &mut Reader) -> Policy {
    let default: Vec<String> = DEFAULT_DENY.iter().map(ToString::to_string).collect();
    Policy {
        deny: networks(r, "egress.deny", default),
        allow: networks(r, "egress.allow", Vec::new()),
        https_only: r.flag("egress.https_only", false),
        own: None,
    }
}

fn networks(r: &mut Reader, key: &'static str, default: Vec<String>) -> Vec<IpNet> {
    let texts = r.texts(key).unwrap_or(default);
    let mut found = Vec::with_capacity(texts.len());
    for text in &texts {
        match text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
            Some(net) => found.push(net),
            None => {
                let message = format!(
                    "has {text:?}, which is no network such as \"10.0.0.0/8\" or \"fe80::/10\""
                );
                r.fault(key, message);
            }
        }
    }
    let shown: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    r.note(key, Some(format!("[{}]", shown.join(", "))));
    found
}

fn proxy(r: &mut Reader) -> Option<SecretUrl> {
    const KEY: &str = "egress.proxy";
    let text = r.text(KEY)?;
    let proxy = SecretUrl::from(text);
    if let Some(noted) = r.effective.iter_mut().find(|it| it.key == KEY) {
        noted.value = Some(quoted(&proxy.to_string()));
    }
    let is_text = |part| percent_encoding::percent_decode_str(part).decode_utf8().is_ok();
    match url::Url::parse(proxy.reveal()) {
        // The HTTP client would put U+FFFD in the place of the octets, and never get in.
        Ok(url)
            if url.scheme().starts_with("socks")
                && !(is_text(url.username()) && url.password().is_none_or(is_text)) =>
        {
            r.fault(KEY, "has a user or password that is no UTF-8; no SOCKS proxy can be sent it");
            None
        }
        Ok(url)
            if url.has_host()
                && matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") =>
        {
            Some(proxy)
        }
        _ => {
            r.fault(KEY, "has to be a URL such as \"http://proxy:3128\"; its scheme http, https, socks5 or socks5h");
            None
        }
    }
}

fn secrets(r: &mut Reader) -> Vec<signing::Secret> {
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
    found
}

fn log_settings(r: &mut Reader, data_dir: &Path) -> telemetry::Settings {
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
    telemetry::Settings { level, target }
}

/// Shares what the delivery loop's parts need.
impl Config {
    /// The way to the receivers; what it is made of is read from its files now.
    pub fn clients(&self) -> Result<client::Clients, client::ClientError> {
        client::Clients::build(&self.client, Arc::new(self.egress.clone()))
    }

    /// The sender of attempts.
    pub fn sender(
        &self,
        clock: crate::clock::SharedClock,
    ) -> Result<attempt::Sender, client::ClientError> {
        Ok(attempt::Sender {
            clients: Arc::new(ArcSwap::from_pointee(self.clients()?)),
            settings: self.attempt.clone(),
            secrets: self.secrets.clone(),
            final_statuses: self.dispatcher.retry.final_statuses.clone(),
            clock,
        })
    }
}
