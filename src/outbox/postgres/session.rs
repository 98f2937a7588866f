//! Connections to PostgreSQL, and what its errors mean.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::sync::{mpsc, watch};
use tokio_postgres::{
    AsyncMessage, Client, Config, SimpleQueryMessage, Socket,
    error::{DbError, SqlState},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::settings::Settings;
use crate::{
    callback::SecretUrl,
    outbox::{OutboxError, error::Result},
    tls::{self, PairFiles},
};

/// Time-out for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time-out for one call, after which the connection counts as broken.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// PostgreSQL ends a session that has been silent for this long and releases its locks, even if the instance
/// is frozen or cut off.
const GUARD: &str = "SET idle_session_timeout = '20s'; SET idle_in_transaction_session_timeout = '20s'; \
    SET tcp_user_timeout = '20s'; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; \
    SET tcp_keepalives_count = 3";

/// Forces plans that look each row up in an index, in the index's order: plans are made while the tables are
/// still empty, so the statistics mislead. A bitmap scan visits all rows of a key, including those that are
/// dead but kept by an old snapshot, and a materialized list is compared with each row.
const PLANS: &str = "SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off; \
    SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; \
    SET plan_cache_mode = force_generic_plan";

/// Opens connections.
pub(super) struct Connector {
    /// The configuration for reads.
    config: Config,
    /// The configuration for sessions that hold locks and listen. It must not lead to a pooler in transaction
    /// mode.
    direct: Config,
    /// Whether the two differ.
    is_pooled: bool,
    settings: Arc<Settings>,
}

/// A connection.
pub(super) struct Connection {
    pub(super) client: Client,
    /// `false` when it is closed.
    pub(super) open: watch::Receiver<bool>,
}

impl Connector {
    /// The error describes what is wrong with a URL or a file.
    pub(super) fn new(settings: &Arc<Settings>) -> std::result::Result<Self, String> {
        let config = configured(&settings.url)?;
        let session_url = settings.session_url.as_ref();
        let direct = session_url.map(configured).transpose()?;
        let is_pooled = direct.is_some();
        let direct = direct.unwrap_or_else(|| config.clone());
        let connector = Self { config, direct, is_pooled, settings: Arc::clone(settings) };
        connector.with_files(&connector.config)?;
        Ok(connector)
    }

    /// The password and the TLS configuration of a connection. The files are read each time, because they may
    /// have been replaced. TLS is used unless the URL has `sslmode=disable`.
    fn with_files(
        &self,
        config: &Config,
    ) -> std::result::Result<(Config, MakeRustlsConnect), String> {
        let mut config = config.clone();
        if let Some(file) = &self.settings.password_file {
            let password = tls::read_regular(file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            config.password(password.trim_end_matches(['\r', '\n']));
        }
        let tls = || {
            let trusted = self.settings.ca_file.as_deref().map(tls::authorities).transpose()?;
            let own = self.settings.identity.as_ref().map(PairFiles::read).transpose()?;
            tls::client(trusted.unwrap_or_default(), own)
        };
        let tls = MakeRustlsConnect::new(tls().map_err(|error| error.to_string())?);
        Ok((config, tls))
    }

    /// The statement with the name of the schema in it.
    pub(super) fn sql(&self, text: &str) -> String {
        text.replace("@schema@", &format!("\"{}\"", self.settings.schema.replace('"', "\"\"")))
    }

    /// The name of the schema.
    pub(super) fn schema(&self) -> &str {
        &self.settings.schema
    }

    /// Name of the channel of the notifications.
    pub(super) fn channel(&self) -> String {
        // Names are cut off after 63 bytes.
        format!("urlcallback_{:x}", crc32fast::hash(self.settings.schema.as_bytes()))
    }

    /// Connects the session that owns shards, with a limit on its silence.
    pub(super) async fn session(&self) -> Result<Connection> {
        let connection = self.direct().await?;
        connection.client.batch_execute(GUARD).await.map_err(away)?;
        connection.client.batch_execute(PLANS).await.map_err(away)?;
        if let Some(notices) = &self.settings.common.notices {
            // For note_failures_v1.
            let window =
                format!("SET urlcallback.notify_window = '{}'", notices.window().as_millis());
            connection.client.batch_execute(&window).await.map_err(away)?;
        }
        Ok(connection)
    }

    /// Connects without a pooler.
    pub(super) async fn direct(&self) -> Result<Connection> {
        self.connection(&self.direct).await
    }

    /// Connects for reads.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let connection = self.connection(&self.config).await?;
        if !self.is_pooled {
            // Compiling a plan takes longer than running it.
            connection.client.batch_execute("SET jit = off").await.map_err(away)?;
        }
        Ok(connection)
    }

    async fn connection(&self, config: &Config) -> Result<Connection> {
        let (client, serve) = self.open(config).await?;
        Ok(Connection { client, open: until_closed(serve) })
    }

    /// Whether a pooler in transaction mode is in between, which runs each transaction on any of its
    /// connections. Session locks would then have no owner.
    pub(super) async fn shares_sessions(&self) -> Result<bool> {
        let (one, other) = (self.direct().await?, self.direct().await?);
        let first = backend(&one.client).await?;
        other.client.batch_execute("BEGIN").await.map_err(away)?;
        // The second query is made only if needed: with a pooler that has a single connection, it would wait.
        let shares = backend(&other.client).await? == first || backend(&one.client).await? != first;
        other.client.batch_execute("ROLLBACK").await.map_err(away)?;
        Ok(shares)
    }

    /// Connects to listen. Notifications arrive at the receiver.
    pub(super) async fn listen(&self) -> Result<(Client, mpsc::UnboundedReceiver<String>)> {
        let (client, serve) = self.open(&self.direct).await?;
        Ok((client, notified(serve)))
    }

    async fn open(&self, config: &Config) -> Result<(Client, Serve)> {
        let files = self.with_files(config);
        let (config, tls) = files.map_err(|error| OutboxError::Unreachable(error.into()))?;
        config.connect(tls).await.map_err(away)
    }
}

type Serve =
    tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Drives a connection in a task of this runtime. If a commit may not have reached its synchronous standby,
/// the connection is closed before the call gets its answer.
fn until_closed(mut serve: Serve) -> watch::Receiver<bool> {
    let (closed, open) = watch::channel(true);
    tokio::spawn(async move {
        let mut all = stream::poll_fn(|context| serve.poll_message(context));
        while let Some(Ok(message)) = all.next().await {
            if matches!(&message, AsyncMessage::Notice(notice) if is_unreplicated(notice)) {
                tracing::error!(
                    event.action = "store-unreplicated",
                    "a commit did not wait for its synchronous standby; closing the connection"
                );
                break;
            }
        }
        drop(serve);
        closed.send_replace(false);
    });
    open
}

/// Whether PostgreSQL warns that a transaction was committed, but might not have been replicated. The text of
/// the warning depends on the server's language.
fn is_unreplicated(notice: &DbError) -> bool {
    *notice.code() == SqlState::WARNING && notice.routine() == Some("SyncRepWaitForLSN")
}

/// The same for a connection that listens.
fn notified(mut serve: Serve) -> mpsc::UnboundedReceiver<String> {
    let (payloads, notifications) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut all = stream::poll_fn(move |context| serve.poll_message(context));
        while let Some(Ok(message)) = all.next().await {
            if let AsyncMessage::Notification(notification) = message
                && payloads.send(notification.payload().to_owned()).is_err()
            {
                break;
            }
        }
    });
    notifications
}

/// The number of the process that serves a connection.
async fn backend(client: &Client) -> Result<String> {
    let found = client.simple_query("SELECT pg_backend_pid()").await.map_err(away)?;
    let number = found.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    number.ok_or_else(|| OutboxError::Engine("the database returned no row".into()))
}

fn configured(url: &SecretUrl) -> std::result::Result<Config, String> {
    let mut config = parsed(url)?;
    config.connect_timeout(CONNECT_TIMEOUT).keepalives_idle(Duration::from_secs(10));
    if config.get_application_name().is_none() {
        config.application_name(env!("CARGO_PKG_NAME"));
    }
    Ok(config)
}

fn parsed(url: &SecretUrl) -> std::result::Result<Config, String> {
    if !["postgresql://", "postgres://"].iter().any(|scheme| url.reveal().starts_with(scheme)) {
        return Err("it begins with postgresql://".to_owned());
    }
    // Only a password before the `@` is masked when the URL is shown.
    let query = url.reveal().split_once('?').map_or("", |(_, query)| query);
    if url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "password") {
        return Err(
            "a password belongs before the @, or in outbox.postgres.password_file".to_owned()
        );
    }
    let config: Config =
        url.reveal().parse().map_err(|error: tokio_postgres::Error| said(&error).to_string())?;
    if config.get_hosts().is_empty() {
        return Err("it names no host".to_owned());
    }
    Ok(config)
}

/// Checks the form of a URL; the error describes what is wrong.
pub fn check_url(url: &SecretUrl) -> std::result::Result<(), String> {
    parsed(url).map(drop)
}

/// The message of an error, in one line.
pub(super) fn said(error: &tokio_postgres::Error) -> Arc<str> {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("{} (SQLSTATE {})", db.message(), db.code().code()).into(),
        (None, Some(source)) => format!("{error}: {source}").into(),
        (None, None) => error.to_string().into(),
    }
}

/// An error before anything was changed.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn away(error: tokio_postgres::Error) -> OutboxError {
    if is_away(&error) {
        OutboxError::Unreachable(said(&error))
    } else {
        OutboxError::Engine(said(&error))
    }
}

/// An error of a write. If the connection broke, the write may have been committed.
pub(super) fn unsure(error: tokio_postgres::Error) -> OutboxError {
    match error.as_db_error() {
        // PostgreSQL has answered: nothing was changed.
        Some(_) => away(error),
        None => OutboxError::Unsure(said(&error)),
    }
}

/// Whether a call was rolled back because of another one, such as after a deadlock.
pub(super) fn is_conflict(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|db| db.code().code().starts_with("40"))
}

/// Whether the database cannot serve any call at the moment.
fn is_away(error: &tokio_postgres::Error) -> bool {
    let Some(db) = error.as_db_error() else { return true };
    let code = db.code();
    // Connection exceptions, insufficient resources, operator intervention, rollbacks.
    ["08", "53", "57", "40"].iter().any(|class| code.code().starts_with(class))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::LOCK_NOT_AVAILABLE
}
