//! Connections to PostgreSQL, and what its errors mean.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::sync::{mpsc, watch};
use tokio_postgres::{AsyncMessage, Client, Config, Socket, error::SqlState, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::settings::Settings;
use crate::{
    callback::SecretUrl,
    outbox::{OutboxError, error::Result},
    tls::{self, PairFiles},
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one call may take before the connection counts as broken.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// PostgreSQL ends a session that is silent for so long, and with it its locks, also if the instance is
/// frozen or cut off.
const GUARD: &str = "SET idle_session_timeout = '20s'; SET idle_in_transaction_session_timeout = '20s'; \
    SET tcp_user_timeout = '20s'; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; \
    SET tcp_keepalives_count = 3";

/// Plans with an index, whatever the statistics say: they are made while the tables are still empty.
const PLANS: &str = "SET jit = off; SET enable_seqscan = off; SET enable_hashjoin = off; \
    SET enable_mergejoin = off; SET plan_cache_mode = force_generic_plan";

/// Makes connections.
pub(super) struct Connector {
    config: Config,
    /// Used unless the URL says `sslmode=disable`.
    tls: MakeRustlsConnect,
    schema: String,
}

/// A connection.
pub(super) struct Connection {
    pub(super) client: Client,
    /// `false` when it is closed.
    pub(super) open: watch::Receiver<bool>,
}

impl Connector {
    pub(super) fn new(settings: &Settings) -> std::result::Result<Self, String> {
        let mut config = parsed(&settings.url)?;
        if let Some(file) = &settings.password_file {
            let password = tls::read_regular(file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            config.password(password.trim_end_matches(['\r', '\n']));
        }
        config.connect_timeout(CONNECT_TIMEOUT).keepalives_idle(Duration::from_secs(10));
        if config.get_application_name().is_none() {
            config.application_name(env!("CARGO_PKG_NAME"));
        }
        let tls = || {
            let trusted = settings.ca_file.as_deref().map(tls::authorities).transpose()?;
            let own = settings.identity.as_ref().map(PairFiles::read).transpose()?;
            tls::client(trusted.unwrap_or_default(), own)
        };
        let tls = MakeRustlsConnect::new(tls().map_err(|error| error.to_string())?);
        Ok(Self { config, tls, schema: settings.schema.clone() })
    }

    /// The statement with the name of the schema in it.
    pub(super) fn sql(&self, text: &str) -> String {
        text.replace("@schema@", &format!("\"{}\"", self.schema.replace('"', "\"\"")))
    }

    /// The name of the schema.
    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// Name of the channel of the notices.
    pub(super) fn channel(&self) -> String {
        // Names are cut off after 63 bytes.
        format!("urlcallback_{:x}", crc32fast::hash(self.schema.as_bytes()))
    }

    /// Connects, with limits on its silence: the session that owns shards.
    pub(super) async fn session(&self) -> Result<Connection> {
        let connection = self.connect().await?;
        connection.client.batch_execute(GUARD).await.map_err(away)?;
        connection.client.batch_execute(PLANS).await.map_err(away)?;
        Ok(connection)
    }

    /// Connects.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let (client, serve) = self.config.connect(self.tls.clone()).await.map_err(away)?;
        Ok(Connection { client, open: until_closed(serve) })
    }

    /// Connects to listen: the notices come out of the receiver.
    pub(super) async fn listen(&self) -> Result<(Client, mpsc::UnboundedReceiver<String>)> {
        let (client, serve) = self.config.connect(self.tls.clone()).await.map_err(away)?;
        Ok((client, notified(serve)))
    }
}

type Serve =
    tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Serves a connection in a task of this runtime.
fn until_closed(serve: Serve) -> watch::Receiver<bool> {
    let (closed, open) = watch::channel(true);
    tokio::spawn(async move {
        drop(serve.await);
        closed.send_replace(false);
    });
    open
}

/// The same for a connection that listens.
fn notified(mut serve: Serve) -> mpsc::UnboundedReceiver<String> {
    let (payloads, notices) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut all = stream::poll_fn(move |context| serve.poll_message(context));
        while let Some(Ok(message)) = all.next().await {
            if let AsyncMessage::Notification(notice) = message
                && payloads.send(notice.payload().to_owned()).is_err()
            {
                break;
            }
        }
    });
    notices
}

fn parsed(url: &SecretUrl) -> std::result::Result<Config, String> {
    if !["postgresql://", "postgres://"].iter().any(|scheme| url.reveal().starts_with(scheme)) {
        return Err("it begins with postgresql://".to_owned());
    }
    // Only the password before the `@` is hidden wherever the URL is shown.
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

/// Checks the form of a URL; the error says what is wrong.
pub fn check_url(url: &SecretUrl) -> std::result::Result<(), String> {
    parsed(url).map(drop)
}

/// What an error says, in one line.
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

/// An error of a write, which may have been made if the connection broke.
pub(super) fn unsure(error: tokio_postgres::Error) -> OutboxError {
    match error.as_db_error() {
        // PostgreSQL has answered: nothing was changed.
        Some(_) => away(error),
        None => OutboxError::Unsure(said(&error)),
    }
}

/// Whether a call was rolled back because of another one: a deadlock, say.
pub(super) fn is_conflict(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|db| db.code().code().starts_with("40"))
}

/// Whether the database cannot be used at the moment, whatever is asked of it.
fn is_away(error: &tokio_postgres::Error) -> bool {
    let Some(db) = error.as_db_error() else { return true };
    let code = db.code();
    // Connection exceptions, insufficient resources, operator intervention, rollbacks.
    ["08", "53", "57", "40"].iter().any(|class| code.code().starts_with(class))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::LOCK_NOT_AVAILABLE
}
