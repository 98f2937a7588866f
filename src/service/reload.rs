//! A reload: the settings are read again, and what can change while the service runs is replaced as a whole.
//! If anything is faulty, nothing changes.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::{mpsc, watch};

use crate::{
    api::{
        self,
        reloads::{ReloadView, Reloaded, Waiting},
        view::{FaultView, Terms},
    },
    config::{Config, ConfigError, Fault},
    datadir::{self, DataDir, DataDirError, Note},
    delivery::{retry, send::attempt::Means, settings},
    intake::Intake,
    sources::nats,
    telemetry::{Log, SEPARATOR},
    tls::{self, TlsError},
};

/// Sections that are reloaded, and single keys of other sections. Everything else needs a restart.
const RELOADED: [&str; 16] = [
    "api.read_token_file",
    "api.tls_cert_file",
    "api.tls_key_file",
    "api.token_file",
    "auth",
    "breaker",
    "delivery",
    "destinations",
    "egress",
    "log.level",
    "retention",
    "retry",
    "shutdown_grace",
    "signing",
    "tls",
    "tracker",
];

/// The settings from which the store derived the longest possible pause.
const PAUSES: [&str; 3] = ["retry.jitter", "retry.max_interval", "retry.max_retry_after"];

/// The parts that a reload replaces.
pub(super) struct Reload<'a> {
    /// Reads the settings.
    pub(super) load: &'a (dyn Fn() -> Result<Config, ConfigError> + Sync),
    /// The settings in effect.
    pub(super) config: Config,
    pub(super) data_dir: &'a DataDir,
    pub(super) log: &'a Log,
    pub(super) address: SocketAddr,
    pub(super) note: Note,
    pub(super) tokens: api::Tokens,
    pub(super) tls: Option<api::server::Tls>,
    pub(super) means: Arc<ArcSwap<Means>>,
    pub(super) intake: Intake,
    pub(super) terms: Arc<ArcSwap<Terms>>,
    pub(super) signed: Arc<AtomicBool>,
    pub(super) delivery: watch::Sender<Arc<settings::Settings>>,
    pub(super) upkeep: watch::Sender<Arc<Config>>,
    pub(super) nats: Option<nats::Secrets>,
}

/// Settings that were read and can be put into effect.
struct Next {
    config: Config,
    tokens: (String, Option<String>),
    tls: Option<(ServerConfig, String)>,
    means: Means,
}

/// Reads the operator's token, and the read-only one if configured.
pub(super) fn tokens(config: &Config) -> Result<(String, Option<String>), DataDirError> {
    let api = &config.api;
    datadir::read_tokens(&api.token_file, api.read_token_file.as_deref())
}

/// The file with the operator's token, for commands in any folder.
pub(super) fn token_file(config: &Config) -> PathBuf {
    let file = &config.api.token_file;
    std::path::absolute(file).unwrap_or_else(|_| file.clone())
}

/// Logs the warnings about the settings.
pub(super) fn log_warnings(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!(event.action = "settings-warning", error.message = %warning, "settings");
    }
}

impl Reload<'_> {
    /// Handles requests to reload.
    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Waiting>) {
        while let Some(waiting) = asked.recv().await {
            let done = self.once().await;
            say(&done);
            // After a signal, no caller waits for the result.
            drop(waiting.send(done));
        }
    }

    async fn once(&mut self) -> Reloaded {
        let mut next = self.read().await.map_err(|faults| {
            let view = |Fault { key, place, message }| FaultView { key, place, message };
            faults.into_iter().map(view).collect::<Vec<_>>()
        })?;
        let mut view = ReloadView {
            warnings: next.config.warnings.iter().map(ToString::to_string).collect(),
            ..ReloadView::default()
        };
        let keep_pauses = self.keep_pauses(&mut next.config.dispatcher);
        let tls_differs = self.config.api.tls.is_some() != next.config.api.tls.is_some();
        let needs_restart = |key: &str| {
            let is = |it: &&str| {
                key.strip_prefix(*it).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            !RELOADED.iter().any(is)
                || keep_pauses && PAUSES.contains(&key)
                || tls_differs && key.starts_with("api.tls_")
        };
        for new in &mut next.config.effective {
            let old = self.config.effective.iter().find(|it| it.key == new.key);
            let Some(old) = old.filter(|old| old.differs(new)) else { continue };
            let key = old.key.to_owned();
            // The files of the source are read again, but not its settings.
            let of_nats = old.key.starts_with("nats.") && old.value == new.value;
            if needs_restart(old.key) && !of_nats {
                view.restart.push(key);
                new.clone_from(old);
            } else {
                view.changed.push(key);
            }
        }
        // A change of the notices' settings needs a restart.
        next.means.notify.clone_from(&self.means.load().notify);
        let tokens_differ = self.apply(next);
        if tokens_differ && !view.changed.iter().any(|key| key.contains("token_file")) {
            view.changed.push("api.token_file".into());
        }
        Ok(view)
    }

    /// Reads everything, and fails if any part cannot be put into effect.
    async fn read(&self) -> Result<Next, Vec<Fault>> {
        let mut config = (self.load)().map_err(|error| error.0)?;
        config.egress.own = Some(self.address);
        let mut faults = Vec::new();
        let mut note = |key: &str, message: String| {
            faults.push(Fault { key: key.into(), place: None, message });
        };
        let tokens = tokens(&config).map_err(|error| note("api.token_file", error.to_string()));
        let tls = match (&config.api.tls, &self.tls) {
            (Some(files), Some(_)) => files
                .read()
                .and_then(|pair| Ok(Some((tls::server(&pair)?, pair.fingerprint()))))
                .map_err(|error: TlsError| note("api.tls_cert_file", error.to_string())),
            _ => Ok(None),
        };
        let means = config.means().map_err(|error| note("destinations", error.to_string()));
        if faults.is_empty()
            && let Some(nats) = &self.nats
            && let Err(error) = nats.read_again().await
        {
            faults.push(Fault { key: "nats".into(), place: None, message: error.to_string() });
        }
        match (tokens, tls, means) {
            (Ok(tokens), Ok(tls), Ok(means)) if faults.is_empty() => {
                Ok(Next { config, tokens, tls, means })
            }
            _ => Err(faults),
        }
    }

    /// Keeps the pauses in effect if the new ones exceed the longest pause at the start, to which the store
    /// would shorten them. Returns whether they are kept.
    fn keep_pauses(&self, next: &mut settings::Settings) -> bool {
        let known = &self.config.dispatcher.retry;
        let keep = next.retry.longest_pause() > self.config.longest_pause;
        if keep {
            let pauses = |retry: &mut retry::Settings| {
                retry.jitter = known.jitter;
                retry.max_interval = known.max_interval;
                retry.max_retry_after = known.max_retry_after;
            };
            pauses(&mut next.retry);
            next.sections = next.sections.map(|_, section| {
                let mut section = section.clone();
                pauses(&mut section.retry);
                section
            });
        }
        keep
    }

    /// Puts everything into effect. Returns whether a token has changed.
    fn apply(&mut self, next: Next) -> bool {
        let Next { mut config, tokens: (operator, reader), tls, means } = next;
        let tokens_differ = self.tokens.replace(operator, reader);
        let mut note = self.note.clone();
        note.token_file = token_file(&config);
        if let (Some((server, fingerprint)), Some(tls)) = (tls, &self.tls) {
            tls.store(Arc::new(server));
            note.certificate = Some(fingerprint);
        }
        // Commands identify the service by its certificate, and read its token.
        if note != self.note {
            match self.data_dir.write_note(&note) {
                Ok(()) => self.note = note,
                Err(error) => tracing::error!(
                    event.action = "note-failed",
                    error.message = %error,
                    "commands may not find the service until it is restarted"
                ),
            }
        }
        self.log.set_level(config.log.level);
        self.means.store(Arc::new(means));
        self.intake.replace(config.egress.clone(), config.tracker_template.as_deref());
        self.terms.store(Arc::new(config.terms()));
        self.signed.store(!config.secrets.is_empty(), Ordering::Relaxed);
        self.delivery.send_replace(Arc::new(config.dispatcher.clone()));
        config.longest_pause = self.config.longest_pause;
        self.config = config;
        self.upkeep.send_replace(Arc::new(self.config.clone()));
        log_warnings(&self.config);
        tokens_differ
    }
}

fn say(done: &Reloaded) {
    match done {
        Ok(view) => tracing::info!(
            event.action = "settings-reloaded",
            event.outcome = "success",
            settings.changed = view.changed.join(SEPARATOR),
            settings.restart = view.restart.join(SEPARATOR),
            "settings reloaded"
        ),
        Err(faults) => {
            let said = faults.iter().map(|it| format!("{}: {}", it.key, it.message));
            tracing::error!(
                event.action = "settings-reloaded",
                event.outcome = "failure",
                error.message = said.collect::<Vec<_>>().join("; "),
                "the settings have errors, and nothing has changed"
            );
        }
    }
}
