//! The schema, created and migrated.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, error::SqlState};

use super::{
    rows::class_of,
    session::{Connector, said},
    statements::LIVE,
};
use crate::outbox::{Identity, OutboxError, ids};

/// The migrations in order. The schema's version is the number of migrations that were applied. A migration
/// should keep what older services call; it then leaves `meta.oldest` unchanged, so that instances can be
/// upgraded one after the other.
const MIGRATIONS: [&str; 1] = [include_str!("../../../migrations/postgres/0001_first_schema.sql")];

/// The oldest supported version of PostgreSQL.
const OLDEST_SERVER: i32 = 140_000;

/// How long PostgreSQL may take to notice that a process has ended, and to end its session.
const LINGERING: Duration = Duration::from_secs(2);

/// A schema that is ready.
pub(super) struct Schema {
    pub(super) salt: [u8; 16],
    pub(super) migrated: bool,
}

/// The purpose of opening the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The service uses the store.
    Use,
    /// A command uses the store.
    Command,
    /// An empty store is created for an import, which [`finish_import`] ends.
    Import(Option<Identity>),
}

/// Creates or migrates the schema. On error, nothing is changed. If the key of the previous session's ids is
/// given, the schema must have the same key.
pub(super) async fn prepare(
    client: &Client,
    connector: &Connector,
    purpose: Purpose,
    known: Option<[u8; 16]>,
) -> std::result::Result<Schema, SchemaError> {
    refuse_server(client).await?;
    client.batch_execute("BEGIN").await?;
    // Instances may start at the same time.
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('urlcallback ' || $1, 0))";
    client.query_one(lock, &[&connector.schema()]).await?;
    let made = match refuse_another(client, connector, known).await {
        Ok(()) => migrate(client, connector, purpose).await,
        Err(error) => Err(error),
    };
    client.batch_execute(if made.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    made
}

/// Refuses a schema that differs from that of the previous session: the URL may name hosts of different
/// clusters.
async fn refuse_another(
    client: &Client,
    connector: &Connector,
    known: Option<[u8; 16]>,
) -> std::result::Result<(), SchemaError> {
    let Some(known) = known else { return Ok(()) };
    if look(client, connector).await? > 0 {
        let row = client.query_one(&connector.sql("SELECT salt FROM @schema@.meta"), &[]).await?;
        if row.get::<_, &[u8]>(0) == known {
            return Ok(());
        }
    }
    Err(SchemaError::Refused(format!(
        "another database has answered, which does not hold these callbacks in its schema {}; do the hosts in \
         outbox.postgres.url belong to one cluster?",
        connector.schema()
    )))
}

/// Refuses a server that is too old, that may lose committed data, or that is read-only.
pub(super) async fn refuse_server(client: &Client) -> std::result::Result<(), SchemaError> {
    let version: String = client.query_one("SHOW server_version_num", &[]).await?.get(0);
    if version.parse().unwrap_or(0) < OLDEST_SERVER {
        return Err(SchemaError::Refused(format!(
            "PostgreSQL 14 or later is needed, and the server has version number {version}"
        )));
    }
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = client.query_one(&format!("SHOW {setting}"), &[]).await?.get(0);
        if value == "off" {
            return Err(SchemaError::Refused(format!(
                "{setting} is off, so that acknowledged callbacks could be lost"
            )));
        }
    }
    let standby = client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0);
    let read_only: String = client.query_one("SHOW transaction_read_only", &[]).await?.get(0);
    if standby {
        return Err(SchemaError::Refused(
            "the server is a standby, which is read-only; add target_session_attrs=read-write and the hosts of \
             all servers to the URL"
                .to_owned(),
        ));
    }
    if read_only == "on" {
        return Err(SchemaError::Refused(
            "transactions are read-only (default_transaction_read_only)".to_owned(),
        ));
    }
    Ok(())
}

/// The version of the schema; 0 if there is none. Fails if this version of the service cannot use it.
pub(super) async fn look(
    client: &Client,
    connector: &Connector,
) -> std::result::Result<usize, SchemaError> {
    let name = connector.schema().to_owned();
    let exists = |sql: &'static str| {
        let name = &name;
        async move { client.query_one(sql, &[name]).await.map(|row| row.get::<_, bool>(0)) }
    };
    let known = exists(
        "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'meta')",
    )
    .await?;
    let filled = exists(
        "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1)",
    )
    .await?;
    let number = |value: i32| usize::try_from(value).unwrap_or(0);
    let (version, oldest, importing) = if known {
        let sql = connector.sql("SELECT version, oldest, importing FROM @schema@.meta");
        let row = client.query_one(&sql, &[]).await.map_err(|error| match error.code() {
            Some(&SqlState::UNDEFINED_COLUMN) => SchemaError::Foreign(name.clone()),
            _ => error.into(),
        })?;
        (number(row.get(0)), number(row.get(1)), row.get(2))
    } else if filled {
        return Err(SchemaError::Foreign(name));
    } else {
        (0, 0, false)
    };
    // During an upgrade, newer instances may have migrated it.
    if version > MIGRATIONS.len() && oldest > MIGRATIONS.len() {
        return Err(SchemaError::Newer { name, found: version, known: MIGRATIONS.len() });
    }
    if importing {
        return Err(SchemaError::Refused(format!(
            "an import into the schema {name} was interrupted; drop the schema, and import again"
        )));
    }
    Ok(version)
}

async fn migrate(
    client: &Client,
    connector: &Connector,
    purpose: Purpose,
) -> std::result::Result<Schema, SchemaError> {
    let version = look(client, connector).await?;
    let newest = MIGRATIONS.len();
    if let Purpose::Import(identity) = purpose
        && version > 0
    {
        let name = connector.schema();
        let held = connector.sql("SELECT EXISTS (SELECT FROM @schema@.callback)");
        if client.query_one(&held, &[]).await?.get(0) {
            return Err(SchemaError::Refused(format!("the schema {name} holds callbacks already")));
        }
        refuse_if_used(client, connector).await?;
        let given = identity.map(|it| it.0.to_vec());
        let begin = "UPDATE @schema@.meta SET importing = true, salt = coalesce($1, salt)";
        client.execute(&connector.sql(begin), &[&given]).await?;
    }
    if version == 0 {
        client.batch_execute(&connector.sql("CREATE SCHEMA IF NOT EXISTS @schema@")).await?;
    }
    for migration in MIGRATIONS.iter().skip(version) {
        client.batch_execute(&connector.sql(migration)).await?;
    }
    let newest = i32::try_from(newest).unwrap_or(i32::MAX);
    if version == 0 {
        let (importing, given) = match purpose {
            Purpose::Use | Purpose::Command => (false, None),
            Purpose::Import(identity) => (true, identity),
        };
        let random = || ids::random().map_err(|error| SchemaError::Refused(error.to_string()));
        let salt = given.map_or_else(random, |identity| Ok(identity.0))?;
        let sql = connector
            .sql("INSERT INTO @schema@.meta (version, salt, importing) VALUES ($1, $2, $3)");
        client.execute(&sql, &[&newest, &salt.as_slice(), &importing]).await?;
    } else {
        let sql = connector.sql("UPDATE @schema@.meta SET version = $1 WHERE version < $1");
        client.execute(&sql, &[&newest]).await?;
    }
    client.query_one(&connector.sql("SELECT @schema@.begin_v1()"), &[]).await?;
    let row = client.query_one(&connector.sql("SELECT salt FROM @schema@.meta"), &[]).await?;
    let salt = <[u8; 16]>::try_from(row.get::<_, &[u8]>(0))
        .map_err(|_| SchemaError::Foreign(connector.schema().to_owned()))?;
    Ok(Schema { salt, migrated: version > 0 && version < MIGRATIONS.len() })
}

/// Fails if the schema is in use: an import changes the key of the ids.
async fn refuse_if_used(
    client: &Client,
    connector: &Connector,
) -> std::result::Result<(), SchemaError> {
    let salt = client.query_one(&connector.sql("SELECT salt FROM @schema@.meta"), &[]).await?;
    let class = class_of(salt.get(0));
    let end = Instant::now() + LINGERING;
    loop {
        let used: i64 = client.query_one(LIVE, &[&class, &0_i32, &i32::MAX]).await?.get(0);
        if used == 0 {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(SchemaError::Refused(format!(
                "an instance or a command uses the schema {}; stop it first",
                connector.schema()
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Marks the import as complete, so that the store can be used.
pub(super) async fn finish_import(
    client: &Client,
    connector: &Connector,
) -> std::result::Result<(), SchemaError> {
    let sql = connector.sql("UPDATE @schema@.meta SET importing = false");
    Ok(client.execute(&sql, &[]).await.map(drop)?)
}

/// Removes what an interrupted import has left.
pub(super) async fn remove_import(
    client: &Client,
    connector: &Connector,
) -> std::result::Result<(), SchemaError> {
    let meta = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'meta')";
    let known: bool = client.query_one(meta, &[&connector.schema()]).await?.get(0);
    let importing = connector.sql("SELECT importing FROM @schema@.meta");
    if known && client.query_one(&importing, &[]).await?.get(0) {
        refuse_if_used(client, connector).await?;
        client.batch_execute(&connector.sql("DROP SCHEMA @schema@ CASCADE")).await?;
    }
    Ok(())
}

/// Why a schema, or its database, cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    #[error(
        "another instance with the identity of this data directory is connected; if the directory was copied, \
         remove its file `node`"
    )]
    InUse,
    #[error(
        "a pooler in transaction mode is in between; set outbox.postgres.session_url to a URL that leads to the \
         database itself, or to a pooler in session mode"
    )]
    Pooled,
    #[error("the schema {0} contains something else; set outbox.postgres.schema to another name")]
    Foreign(String),
    #[error("the schema {name} has version {found}, and this version supports up to {known}")]
    Newer { name: String, found: usize, known: usize },
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Outbox(#[from] OutboxError),
    #[error("{}", said(.0))]
    Database(#[from] tokio_postgres::Error),
}

impl SchemaError {
    /// The same as an error of the store at `place`.
    pub(super) fn of(self, place: &str) -> OutboxError {
        match self {
            Self::Newer { found, known, .. } => OutboxError::NewerFormat {
                dir: place.into(),
                found: u32::try_from(found).unwrap_or(u32::MAX),
                known: u32::try_from(known).unwrap_or(u32::MAX),
            },
            other => {
                OutboxError::CannotOpen { dir: place.into(), reason: other.to_string().into() }
            }
        }
    }
}
