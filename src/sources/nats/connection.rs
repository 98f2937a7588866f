//! The connection to the servers. It reconnects without limit, and its secrets can be read again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_nats::{Client, ConnectOptions, Event, connection::State};
use tokio::sync::watch;

use super::{credentials::Secret, fault::Fault, settings::Settings};
use crate::measure;

/// Interval of pings. A server that does not answer two of them counts as gone.
const PING: Duration = Duration::from_secs(10);

/// Time-out for connecting, and for the answer to a request.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The latest error that the server or the client reported about the connection.
type Said = Arc<Mutex<Option<String>>>;

/// The connection and its state.
pub(super) struct Connection {
    pub(super) client: Client,
    /// How often it was established.
    pub(super) made: watch::Receiver<u64>,
    said: Said,
    servers: String,
}

/// Reads the files of the connection again.
pub struct Secrets {
    settings: Arc<Settings>,
    secret: Arc<ArcSwap<Secret>>,
    client: Client,
}

impl Secrets {
    /// Reads them, and connects again. If one cannot be used, nothing changes.
    pub async fn read_again(&self) -> Result<(), Fault> {
        let secret = Secret::read(&self.settings.access)?;
        check_files(&self.settings)?;
        self.secret.store(Arc::new(secret));
        let reconnected = self.client.force_reconnect().await;
        reconnected.map_err(|error| Fault::request("connecting again", error))
    }
}

/// Checks the TLS files. The client reads them at each connect and would not report an error.
fn check_files(settings: &Settings) -> Result<(), Fault> {
    if let Some(file) = &settings.ca_file {
        crate::tls::authorities(file).map_err(|error| Fault::Unsuitable(error.to_string()))?;
    }
    if let Some(pair) = &settings.identity {
        pair.read().map_err(|error| Fault::Unsuitable(error.to_string()))?;
    }
    Ok(())
}

impl Connection {
    /// Begins to connect, and retries until it succeeds.
    pub(super) async fn begin(settings: &Arc<Settings>) -> Result<(Self, Secrets), Fault> {
        let secret = Arc::new(ArcSwap::from_pointee(Secret::read(&settings.access)?));
        let (made, watched) = watch::channel(0);
        let said = Said::default();
        let noting = Arc::clone(&said);
        let made = Arc::new(made);
        let options = options(settings, &secret)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .event_callback(move |event| {
                heed(&event, &noting, &made);
                std::future::ready(())
            });
        let servers = settings.servers.join(", ");
        let client = connect(options, settings).await?;
        let secrets = Secrets { settings: Arc::clone(settings), secret, client: client.clone() };
        Ok((Self { client, made: watched, said, servers }, secrets))
    }

    /// Why there is no connection; `Ok` if there is one.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.client.connection_state() == State::Connected {
            return Ok(());
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reason = said.unwrap_or_else(|| "no answer yet".into());
        Err(Fault::Connection { servers: self.servers.clone(), reason })
    }

    /// The errors that the server has reported since the last call.
    pub(super) fn take_said(&self) -> Option<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Connects once, for a check.
pub(super) async fn once(settings: &Settings) -> Result<Client, Fault> {
    let secret = Arc::new(ArcSwap::from_pointee(Secret::read(&settings.access)?));
    connect(options(settings, &secret), settings).await
}

async fn connect(options: ConnectOptions, settings: &Settings) -> Result<Client, Fault> {
    let connected = options.connect(settings.servers.clone()).await;
    connected.map_err(|error| Fault::Connection {
        servers: settings.servers.join(", "),
        reason: error.to_string(),
    })
}

fn options(settings: &Settings, secret: &Arc<ArcSwap<Secret>>) -> ConnectOptions {
    let secret = Arc::clone(secret);
    let answer = move |nonce: Vec<u8>| std::future::ready(secret.load().answer(&nonce));
    let mut options = ConnectOptions::with_auth_callback(answer)
        .name("seal-dpf-urlcallback")
        .ping_interval(PING)
        .connection_timeout(PATIENCE)
        .request_timeout(Some(PATIENCE));
    if let Some(file) = &settings.ca_file {
        options = options.add_root_certificates(file.clone()).require_tls(true);
    }
    if let Some(pair) = &settings.identity {
        options = options
            .add_client_certificate(pair.certificates.clone(), pair.key.clone())
            .require_tls(true);
    }
    if settings.tls_first { options.tls_first() } else { options }
}

fn heed(event: &Event, said: &Said, made: &watch::Sender<u64>) {
    let note = |text| *said.lock().unwrap_or_else(PoisonError::into_inner) = text;
    match event {
        Event::Connected => {
            note(None);
            measure::nats_connected(true);
            tracing::info!(event.action = "nats-connected", "connected to NATS");
            made.send_modify(|count| *count += 1);
        }
        Event::Disconnected => {
            measure::nats_connected(false);
            tracing::warn!(event.action = "nats-disconnected", "the connection to NATS broke");
        }
        Event::ServerError(error) => note(Some(error.to_string())),
        Event::ClientError(error) => note(Some(error.to_string())),
        Event::LameDuckMode => {
            tracing::info!(event.action = "nats-lame-duck", "a NATS server is about to stop");
        }
        Event::Draining | Event::Closed | Event::SlowConsumer(_) => {}
    }
}
