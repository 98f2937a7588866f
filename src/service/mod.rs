//! The service: startup and shutdown in order.
//!
//! Startup: the lock on the data directory, the log, the store (opening is recovery), the listener, then
//! delivery and API. Shutdown: no new events or attempts are started, attempts in progress get the grace
//! period, the API ends, the store is closed, and the lock is released last.

mod reload;
mod shutdown;
mod signals;
pub mod supervised;
mod systemd;
mod upkeep;

pub use self::{
    shutdown::{Observer, Started},
    signals::{Request, Requests},
};

use std::{
    io,
    net::SocketAddr,
    num::NonZero,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

use crate::{
    api::{self, server::Listener},
    clock::{SystemClock, Timestamp},
    config::{Config, ConfigError},
    datadir::{DataDir, DataDirError, Note},
    delivery::{
        dispatcher::Dispatcher,
        jumps::Jumps,
        send::{connecting::ClientError, names::LOOKUPS},
    },
    health::Health,
    intake::Intake,
    measure,
    outbox::{Outbox, OutboxError},
    page, recent, report,
    service::{reload::Reload, shutdown::Tasks, signals::Signals},
    sources::nats,
    telemetry::{self, Log, LogError},
    tls::{self, TlsError},
};

/// How often the single values of histograms are aggregated. At 30,000 per second, they take a few megabytes.
const GATHER_PAUSE: Duration = Duration::from_secs(5);

/// How long to wait for another process that has the data directory locked.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The API's certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The source of events.
    #[error(transparent)]
    Nats(#[from] nats::Fault),
    /// The metrics.
    #[error("cannot set up the metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// The address.
    #[error("cannot listen on {address}: {error} (api.listen)")]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The threads.
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
    /// The signals.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
}

/// Runs until a signal stops it. `again` reads the settings again for a reload, `requests` come from the
/// supervisor of the service, and `observer` is notified when it is ready. Returns the lock, which must be
/// held until everything that shares the store is dropped, with the runtime.
pub async fn serve(
    mut config: Config,
    again: &(dyn Fn() -> Result<Config, ConfigError> + Sync),
    requests: Requests,
    observer: &dyn Observer,
) -> Result<DataDir, ServiceError> {
    // A command that works on the store ends soon.
    let data_dir = DataDir::open_to_serve(&config.data_dir, LOCK_PATIENCE)?;
    let log = telemetry::start(&config.log)?;
    data_dir.remove_exports();
    raise_file_limit();
    let metrics = measure::install()?;
    reload::log_warnings(&config);
    data_dir.create_token(&config.api.token_file)?;
    let (operator, reader) = reload::tokens(&config)?;
    let tokens = api::Tokens::new(operator, reader);
    let (tls, certificate) = api_tls(&config)?.unzip();
    let mut signals = Signals::new(requests).map_err(ServiceError::Signals)?;
    let Some(outbox) = open(&data_dir, &config, &mut signals).await? else {
        shutdown::while_opening(log, observer);
    };
    let clock = outbox.clock();
    tokio::spawn(read_throughput(Arc::clone(&outbox), clock.now()));
    let (listener, address) = listen(config.api.listen).await?;

    // If the port is 0, the actual one is known only now.
    config.egress.own = Some(address);
    let mut sender = config.sender(Arc::clone(&clock))?;
    let means = Arc::clone(&sender.means);
    let started_at = clock.now();
    let (stop, stopped) = watch::channel(false);
    let (health, checks) = Health::new(Arc::clone(&outbox));
    let intake =
        Intake::new(Arc::clone(&outbox), config.egress.clone(), config.tracker_template.as_deref());
    let (source, nats_secrets) = source(&config, &intake, &outbox, &stop, &health).await?.unzip();
    sender.broker = source.as_ref().map(nats::Source::publisher);
    let jumps = jumps(&config, &*outbox);
    let (for_upkeep, reloaded) = watch::channel(Arc::new(config.clone()));
    let upkeep = tokio::spawn(upkeep::run(Arc::clone(&outbox), reloaded, Arc::clone(&jumps)));
    let (for_delivery, reloaded) = watch::channel(Arc::new(config.dispatcher.clone()));
    let dispatcher = Dispatcher::new(Arc::clone(&outbox), sender, reloaded, Arc::clone(&jumps));
    let note = note(&config, address, certificate, started_at);
    data_dir.write_note(&note)?;
    let gather = tokio::spawn(gather(metrics.clone()));
    let runtime = delivery_threads().map_err(ServiceError::Threads)?;
    let delivery = runtime.spawn(dispatcher.run(stopped, checks));
    let source = source.map(|source| tokio::spawn(source.run()));
    let terms = Arc::new(ArcSwap::from_pointee(config.terms()));
    let (reloads, asked) = api::reloads::Reloads::new();
    let shared = api::Shared {
        intake: intake.clone(),
        reloads: reloads.clone(),
        outbox: Arc::clone(&outbox),
        health: health.clone(),
        clock,
        tokens: tokens.clone(),
        metrics: metrics.clone(),
        sign_in: api::links::SignIn::default(),
        terms: Arc::clone(&terms),
        started_at,
        data_dir: config.data_dir.clone(),
        settings: Arc::new(config.api.clone()),
    };
    let (router, signed) = router(shared, &config);
    let (end_api, api_ended) = watch::channel(false);
    let door = Listener {
        router,
        tls: tls.clone(),
        idle_timeout: config.api.idle_timeout,
        end: api_ended,
    };
    let api = tokio::spawn(door.serve(listener));

    log_start(address);
    observer.ready(&Started { note: &note, log_file: log.path.as_deref() });
    let watchdog = tokio::spawn(systemd::watch(health.clone(), Arc::clone(&outbox)));
    systemd::ready();

    let reload = Reload {
        load: again,
        config,
        data_dir: &data_dir,
        log: &log,
        address,
        note,
        tokens,
        tls,
        means,
        intake,
        terms,
        signed,
        delivery: for_delivery.clone(),
        upkeep: for_upkeep,
        nats: nats_secrets,
    };
    let within = tokio::select! {
        within = signals.wait_for_stop(|| hang_up(&log, &reloads)) => within,
        () = reload.run(asked) => None,
    };
    let api_grace = shutdown::begin(&for_delivery, within, observer);
    health.drain();
    stop.send_replace(true);
    let tasks = Tasks { source, delivery, runtime, upkeep, gather, watchdog, api, end_api };
    tasks.end(outbox, api_grace).await;
    data_dir.remove_note();
    tracing::info!(event.action = "service-stopped", "service stopped");
    Ok(data_dir)
}

/// API and page. The page shows whether callbacks are signed.
fn router(shared: api::Shared, config: &Config) -> (axum::Router, Arc<AtomicBool>) {
    let signed = Arc::new(AtomicBool::new(!config.secrets.is_empty()));
    let of_page = page::Shared { api: shared.clone(), signed: Arc::clone(&signed) };
    (api::router(shared).merge(page::router(of_page)), signed)
}

/// Opens the store, which may take long; `None` if a stop is requested before it is open.
async fn open(
    data_dir: &DataDir,
    config: &Config,
    signals: &mut Signals,
) -> Result<Option<Arc<dyn Outbox>>, ServiceError> {
    let (dir, settings) = (data_dir.outbox(), config.outbox.clone());
    let opening = tokio::task::spawn_blocking(move || settings.open(&dir, Arc::new(SystemClock)));
    tokio::select! {
        opened = opening => match opened {
            Ok(opened) => {
                let opened = opened?;
                opened.recovered.iter().for_each(report::outcome);
                Ok(Some(opened.outbox))
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
        () = signals.stop_while_starting() => Ok(None),
    }
}

/// SIGHUP.
fn hang_up(log: &Log, reloads: &api::reloads::Reloads) {
    log.reopen();
    tracing::info!(event.action = "log-reopened", "log file reopened");
    reloads.ask();
}

/// Creates the source of events from NATS, if one is configured. It begins to connect.
async fn source(
    config: &Config,
    intake: &Intake,
    outbox: &Arc<dyn Outbox>,
    stop: &watch::Sender<bool>,
    health: &Health,
) -> Result<Option<(nats::Source, nats::Secrets)>, ServiceError> {
    let Some(settings) = config.nats.clone() else { return Ok(None) };
    let (intake, outbox) = (intake.clone(), Arc::clone(outbox));
    let (source, secrets) = nats::Source::new(settings, intake, outbox, stop.subscribe()).await?;
    health.observe_nats(source.state());
    Ok(Some((source, secrets)))
}

fn note(
    config: &Config,
    address: SocketAddr,
    certificate: Option<String>,
    started_at: Timestamp,
) -> Note {
    Note {
        pid: std::process::id(),
        address,
        certificate,
        token_file: reload::token_file(config),
        started_at,
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// Reads how many callbacks were delivered before the start, for the page.
async fn read_throughput(outbox: Arc<dyn Outbox>, now: Timestamp) {
    let day = Duration::from_secs(60 * recent::DAY as u64);
    match outbox.delivered(now.before(day)).await {
        Ok(known) => recent::delivered_before(known.from, &known.minutes),
        Err(error) => {
            tracing::warn!(error.message = %error, "cannot read the throughput before the start");
        }
    }
}

fn log_start(address: SocketAddr) {
    tracing::info!(
        event.action = "service-started",
        server.address = %address.ip(),
        server.port = address.port(),
        "service started"
    );
}

async fn listen(wanted: SocketAddr) -> Result<(TcpListener, SocketAddr), ServiceError> {
    let failed = |error| ServiceError::Listen { address: wanted, error };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Observes clock jumps. After the start, a grace period gives each callback time for an attempt.
fn jumps(config: &Config, outbox: &dyn Outbox) -> Arc<Jumps> {
    let retry = &config.dispatcher.retry;
    let grace = (2 * retry.max_interval).min(retry.max_age);
    Arc::new(Jumps::new(outbox.clock(), grace))
}

/// The runtime of delivery, apart from the API's, so that the responses of receivers do not delay the
/// API. It has half as many threads as there are processors: the store's threads do as much work for a
/// callback and need the other half. On two processors, two threads take a fifth more processor time
/// per callback than one, because they pass tasks to each other.
fn delivery_threads() -> io::Result<Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads((processors / 2).max(1))
        // Each DNS look-up blocks one; some are left for other blocking work.
        .max_blocking_threads(LOOKUPS + 64)
        .thread_name("delivery")
        .enable_all()
        .build()
}

/// The API's TLS configuration, and the fingerprint of its certificate.
fn api_tls(config: &Config) -> Result<Option<(api::server::Tls, String)>, TlsError> {
    let Some(files) = &config.api.tls else { return Ok(None) };
    let pair = files.read()?;
    Ok(Some((Arc::new(ArcSwap::from_pointee(tls::server(&pair)?)), pair.fingerprint())))
}

/// Sums up the histograms' single values, which would otherwise grow until the next scrape.
async fn gather(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(GATHER_PAUSE).await;
        metrics.run_upkeep();
    }
}

/// Raises the limit of open files: a connection is one, and the usual soft limit is 1,024.
fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(error.message = %error, "cannot raise the limit of open files");
        }
    }
}
