//! All settings.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use figment::{Figment, providers::Env};

use super::{
    destinations::{self, Section},
    effective::Effective,
    fault::{ConfigError, Fault},
    files, nats, notify, postgres,
    reader::Reader,
    sections::{
        api_settings, attempt_settings, breaker_settings, egress_policy, log_settings,
        outbox_settings, proxy, retention, retry_settings, secrets, tracker_template,
    },
    source::{self, ENV_PREFIX},
};
use crate::{
    api,
    callback::{PatternMap, SecretUrl},
    delivery::{
        retry,
        schedule::limits::Limits,
        send::{attempt, clients, connecting::ClientError, signing},
        settings,
    },
    egress::Policy,
    outbox::{self, Retention},
    sources, telemetry,
};

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Outbox, token and lock.
    pub data_dir: PathBuf,
    /// The HTTP API.
    pub api: api::Settings,
    /// Template of a job's page, with `{jobId}` and `{jobIdFs}`; `None` for no page.
    pub tracker_template: Option<String>,
    /// The store.
    pub outbox: outbox::store::StoreSettings,
    /// How long ended callbacks are kept: the settings `retention.*`.
    pub retention: Retention,
    /// The delivery loop.
    pub dispatcher: settings::Settings,
    /// One attempt.
    pub attempt: attempt::Settings,
    /// The HTTP client.
    pub client: clients::Settings,
    /// The sections of `destinations`.
    pub destinations: PatternMap<Section>,
    /// Which addresses may be called.
    pub egress: Policy,
    /// Signing secrets.
    pub secrets: Vec<signing::Secret>,
    /// Job events from NATS.
    pub nats: Option<sources::nats::Settings>,
    /// Where notices of failures go.
    pub notify: Option<SecretUrl>,
    /// The log.
    pub log: telemetry::Settings,
    /// The longest pause before an attempt that can occur.
    pub longest_pause: Duration,
    /// Every key with the value in effect.
    pub effective: Vec<Effective>,
    /// Warnings.
    pub warnings: Vec<Fault>,
}

fn data_dir(r: &mut Reader) -> PathBuf {
    let text = r.text_or("data_dir", &source::default_data_dir());
    // Without a slash at its end, which would hide that it is a symbolic link.
    Path::new(&text).components().collect()
}

impl Config {
    /// Reads `file`, or `config.toml` in the working directory if it exists, and then the environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        let text = match file {
            Some(file) => source::named(file).map(Some),
            None => source::default_file(),
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

    /// Reads the settings again. Fails if the file was a pipe, which can be read only once.
    pub fn load_again(file: Option<&Path>) -> Result<Self, ConfigError> {
        if let Some(file) = file
            && file.exists()
            && !file.is_file()
        {
            let message =
                format!("{} is not a regular file, and can be read only once", file.display());
            return Err(ConfigError(vec![Fault { key: "--config".into(), place: None, message }]));
        }
        Self::load(file)
    }

    /// The defaults alone, without file or environment.
    pub fn defaults() -> Result<Self, ConfigError> {
        Self::read(Figment::new())
    }

    /// How long callbacks are retried and kept.
    pub fn terms(&self) -> api::view::Terms {
        api::view::Terms {
            max_age: self.dispatcher.retry.max_age,
            max_ages: self.destinations.map(|_, section| section.max_age),
            retention: self.retention,
        }
    }

    fn read(figment: Figment) -> Result<Self, ConfigError> {
        const MS: Duration = Duration::from_millis(1);
        let mut r = Reader::new(figment);
        let data_dir = data_dir(&mut r);
        let default_loop = settings::Settings::default();
        let shutdown_grace =
            r.duration("shutdown_grace", default_loop.shutdown_grace, Duration::ZERO);
        let api = api_settings(&mut r, &data_dir);
        let tracker_template = tracker_template(&mut r);
        let mut outbox = outbox_settings(&mut r);
        let retention = retention(&mut r);
        let concurrency = r.size("delivery.concurrency", default_loop.concurrency, 1, 100_000);
        let per_destination =
            r.size("delivery.per_destination", default_loop.per_destination, 1, 100_000);
        let max_unsettled = r.size("delivery.max_unsettled", 4 * concurrency, 1, 1_000_000);
        if max_unsettled < concurrency {
            r.fault("delivery.max_unsettled", "is smaller than delivery.concurrency");
        }
        let connect_timeout = r.duration(
            "delivery.connect_timeout",
            clients::Settings::default().connect_timeout,
            MS,
        );
        let attempt = attempt_settings(&mut r);
        if connect_timeout > attempt.timeout && r.is_set("delivery.connect_timeout") {
            r.fault("delivery.connect_timeout", "is longer than delivery.timeout, which covers it");
        }
        let retry = retry_settings(&mut r);
        let longest_pause = retry.longest_pause();
        outbox.common.longest_pause = longest_pause;
        let nats = nats::settings(&mut r, api.max_event_bytes);
        outbox.common.outcome_events = nats.as_ref().and_then(|nats| nats.outcome_events.clone());
        let mut egress = egress_policy(&mut r);
        egress.own = Some(api.listen);
        let (notify, notices) = notify::settings(&mut r, &egress).unzip();
        outbox.common.notices = notices;
        let postgres = postgres::settings(&mut r, &outbox.common);
        let breaker = breaker_settings(&mut r);
        let destinations = destinations::sections(&mut r, attempt.timeout);
        let longest = destinations.iter().filter_map(|(_, section)| section.concurrency).max();
        let client = clients::Settings {
            connect_timeout,
            idle_per_destination: per_destination.max(longest.unwrap_or(0)),
            proxy: proxy(&mut r),
            ca_file: files::ca_file(&mut r, "tls.ca_file"),
            identity: files::pair(&mut r, "tls.client_cert_file", "tls.client_key_file"),
            sections: destinations.map(|_, section| section.send.clone()),
        };
        let secrets = secrets(&mut r);
        for (key, is_secret) in [
            ("signing.secrets", !secrets.is_empty()),
            ("egress.proxy", client.proxy.as_ref().is_some_and(SecretUrl::has_password)),
            ("notify.url", notify.as_ref().is_some_and(SecretUrl::has_password)),
        ] {
            if let Some(file) = r.file(key).filter(|_| is_secret) {
                files::warn_if_open(&mut r, key, &file);
            }
        }
        let log = log_settings(&mut r, &data_dir);
        r.reject_unknown();
        if !r.faults.is_empty() {
            return Err(ConfigError(r.faults));
        }
        let dispatcher = settings::Settings {
            sections: destinations.map(|pattern, section| {
                let limits = Limits {
                    concurrency: section.concurrency.unwrap_or(per_destination),
                    rate: section.rate,
                };
                let key = format!("destinations.\"{pattern}\"");
                settings::Section { limits, retry: section_retry(section, &key, &retry) }
            }),
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
            outbox: match postgres {
                Some(postgres) => outbox::store::StoreSettings::Postgres(postgres),
                None => outbox::store::StoreSettings::Sled(outbox),
            },
            retention,
            dispatcher,
            attempt,
            client,
            destinations,
            egress,
            secrets,
            nats,
            notify,
            log,
            longest_pause,
            effective: r.effective,
            warnings: r.warnings,
        })
    }
}

/// The retry decision for the destinations of a section.
fn section_retry(section: &Section, key: &str, general: &retry::Settings) -> retry::Settings {
    let mut settings = general.clone();
    if let Some(max_age) = section.max_age {
        settings.max_age = max_age;
        settings.keys.max_age = format!("{key}.max_age").into();
    }
    if let Some(max_attempts) = section.max_attempts {
        settings.max_attempts = max_attempts;
        settings.keys.max_attempts = format!("{key}.max_attempts").into();
    }
    settings
}

/// Errors for environment variables that are not UTF-8, which would otherwise be ignored.
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

/// Builds the parts of delivery.
impl Config {
    /// Builds the sender of attempts. Certificates and credentials are read from their files now.
    pub fn means(&self) -> Result<attempt::Means, ClientError> {
        Ok(attempt::Means {
            clients: clients::Clients::build(&self.client, Arc::new(self.egress.clone()))?,
            settings: self.attempt.clone(),
            secrets: self.secrets.clone(),
            final_statuses: self.dispatcher.retry.final_statuses.clone(),
            notify: self.notify.clone(),
        })
    }

    /// Builds the sender of attempts, without a broker.
    pub fn sender(&self, clock: crate::clock::SharedClock) -> Result<attempt::Sender, ClientError> {
        let means = Arc::new(ArcSwap::from_pointee(self.means()?));
        Ok(attempt::Sender { means, broker: None, clock })
    }
}
