//! The instances that share the schema, and the report of `check-config` about the database.

use tokio_postgres::{Client, types::Type};

use super::{
    read::{Arg, Reads},
    rows::{class_of, time},
    schema::{self, SchemaError},
    session::Connector,
    shard::SHARDS,
    shards::INSTANCE_LOCKS,
};
use crate::outbox::{Instance, error::Result};

/// All instances except those that left before $3. $1 is the class of the advisory locks, $2 the first key of
/// the locks of identities.
const INSTANCES: &str = "SELECT * FROM ( \
        SELECT i.node, i.name, i.seen_at, \
            (SELECT count(*) FROM @schema@.shard s WHERE s.owner = i.id AND NOT s.clean) AS shards, \
            EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 \
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                AND l.classid = ($1::bigint & 4294967295)::oid AND l.objid = ($2::bigint + i.id)::oid) AS is_alive \
        FROM @schema@.instance i \
        WHERE i.seen_at > $3 OR EXISTS (SELECT FROM @schema@.shard s WHERE s.owner = i.id AND NOT s.clean)) AS it \
    ORDER BY name, node";

/// How long an instance that has left is shown, in milliseconds.
const SHOWN: i64 = 60 * 60 * 1000;

impl Reads {
    /// The instances that use the schema, or did in the last hour.
    pub(super) async fn instances(&self, now: i64) -> Result<Vec<Instance>> {
        let class = i64::from(class_of(&self.salt));
        let args = [Arg::Long(class), Arg::Long(INSTANCE_LOCKS.into()), Arg::Long(now - SHOWN)];
        let found = self.query(INSTANCES, &args).await?;
        let instance = |row: &tokio_postgres::Row| Instance {
            name: row.get("name"),
            is_self: row.get::<_, &str>("node") == self.node,
            is_alive: row.get("is_alive"),
            shards: u32::try_from(row.get::<_, i64>("shards")).unwrap_or_default(),
            seen_at: time(row.get("seen_at")),
        };
        Ok(found.iter().map(instance).collect())
    }
}

/// Settings of the server that decide whether what was committed survives.
const DURABILITY: [&str; 4] =
    ["fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names"];

/// Inspects the database without changing anything. Returns one line for each finding; the error is the one
/// with which the service would fail to start.
pub(super) async fn examine(
    connector: &Connector,
) -> std::result::Result<Vec<String>, SchemaError> {
    if connector.shares_sessions().await? {
        return Err(SchemaError::Pooled);
    }
    let session = connector.direct().await?;
    let client = &session.client;
    let mut lines = Vec::new();
    let version = setting(client, "server_version").await?;
    schema::refuse_server(client).await?;
    lines.push(format!("PostgreSQL {version}"));
    for name in DURABILITY {
        lines.push(format!("{name} = {:?}", setting(client, name).await?));
    }
    let standbys = client
        .query_typed(
            "SELECT coalesce(application_name, ''), coalesce(client_addr::text, 'local'), \
                coalesce(state, 'unknown'), coalesce(sync_state, 'unknown') FROM pg_stat_replication ORDER BY 1",
            &[],
        )
        .await?;
    lines.push(format!("{} standbys", standbys.len()));
    for row in &standbys {
        let part = |at: usize| row.get::<_, String>(at);
        lines.push(format!("standby {} at {}: {}, {}", part(0), part(1), part(2), part(3)));
    }
    let name = connector.schema().to_owned();
    let version = schema::look(client, connector).await?;
    if version > 0 {
        let sql = connector.sql("SELECT count(*) FROM @schema@.shard WHERE NOT clean");
        let owned: i64 = client.query_typed_one(&sql, &[]).await?.get(0);
        lines.push(format!("schema {name}: version {version}"));
        lines.push(format!("{owned} of {SHARDS} shards have an owner"));
        return Ok(lines);
    }
    let may = "SELECT CASE WHEN EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) \
        THEN has_schema_privilege($1, 'CREATE') \
        ELSE has_database_privilege(current_database(), 'CREATE') END";
    if !client.query_typed_one(may, &[(&name, Type::TEXT)]).await?.get::<_, bool>(0) {
        return Err(SchemaError::Refused(format!(
            "permission denied: the user may not create the schema {name}, or anything in it"
        )));
    }
    lines.push(format!("schema {name}: does not exist yet; the first start creates it"));
    Ok(lines)
}

async fn setting(client: &Client, name: &str) -> std::result::Result<String, SchemaError> {
    let sql = "SELECT current_setting($1)";
    Ok(client.query_typed_one(sql, &[(&name, Type::TEXT)]).await?.get(0))
}
