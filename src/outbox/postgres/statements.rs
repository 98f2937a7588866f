//! The statements of a session, prepared when it begins.

use tokio_postgres::Statement;

use super::{
    rows,
    session::{Connection, Connector, away},
};
use crate::outbox::error::Result;

/// How many sessions hold a lock of class $1 whose second key is at least $2 and less than $3.
pub(super) const LIVE: &str = "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND granted \
    AND objsubid = 2 AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    AND classid = ($1::integer::bigint & 4294967295)::oid \
    AND objid >= $2::integer::bigint::oid AND objid < $3::integer::bigint::oid";

/// The newest counters of destination `d`, as `t`: a row for each slot.
const COUNTERS: &str = "unnest(@schema@.slots_v1()) AS s (slot) CROSS JOIN LATERAL ( \
    SELECT * FROM @schema@.tally WHERE queue = d.queue AND slot = s.slot ORDER BY period DESC LIMIT 1) t";

/// The windows that are over: all rows of the first ones.
const WINDOWS: &str = "SELECT w.* FROM @schema@.failure_window w JOIN ( \
    SELECT DISTINCT since, queue, slot FROM @schema@.failure_window \
    WHERE (since <= $1 AND slot = $3) OR since <= $2 OR since > $4 ORDER BY 1, 2, 3 LIMIT $5 \
    ) AS over USING (since, queue, slot)";

/// Removes windows.
const REMOVE_WINDOWS: &str = "DELETE FROM @schema@.failure_window w \
    USING unnest($1::bigint[], $2::integer[], $3::bigint[]) AS it (queue, slot, since) \
    WHERE w.queue = it.queue AND w.slot = it.slot AND w.since = it.since";

/// The statements of a session.
pub(super) struct Statements {
    pub(super) enqueue: Statement,
    pub(super) with_events: WithEvents,
    pub(super) settle: Statement,
    pub(super) records: Statement,
    pub(super) replay: Statement,
    pub(super) fail: Statement,
    pub(super) retry_now: Statement,
    pub(super) pause: Statement,
    pub(super) old: Statement,
    pub(super) purge: Statement,
    pub(super) mend: Statement,
    pub(super) import: Statement,
    pub(super) pending: Statement,
    pub(super) fill: Statement,
    pub(super) queues: Statement,
    pub(super) beat: Statement,
    pub(super) live: Statement,
    pub(super) shards: Statement,
    pub(super) own: Statement,
    pub(super) let_go: Statement,
    pub(super) lock: Statement,
    pub(super) unlock: Statement,
    pub(super) hello: Statement,
    pub(super) fresh: Statement,
    pub(super) all_pending: Statement,
    pub(super) asked: Statement,
    pub(super) answered: Statement,
    pub(super) old_questions: Statement,
    pub(super) forget: Statement,
    pub(super) open: Statement,
    pub(super) recent: Statement,
    pub(super) windows: Statement,
    pub(super) remove_windows: Statement,
}

/// Calls that also store the outcome events of callbacks that end, and the seqs of those that end at once.
pub(super) struct WithEvents {
    pub(super) enqueue: Statement,
    pub(super) settle: Statement,
    pub(super) fail: Statement,
    pub(super) next_seqs: Statement,
}

impl WithEvents {
    async fn prepare(connection: &Connection, connector: &Connector) -> Result<Self> {
        let client = &connection.client;
        let prepare = async |text: &str| client.prepare(&connector.sql(text)).await.map_err(away);
        // The parts of a UNION are evaluated one after the other, and the second part sees the changes of the
        // first.
        Ok(Self {
            enqueue: prepare(&format!(
                "SELECT ord, outcome, seq, queue, readiness FROM @schema@.enqueue_v1({}) \
                 UNION ALL SELECT NULL, NULL, seq, queue, readiness FROM @schema@.enqueue_v1({})",
                args(1, 15),
                args(16, 15)
            ))
            .await?,
            settle: prepare(&format!(
                "SELECT seq, queue FROM @schema@.settle_v1({}) \
                 UNION ALL SELECT seq, queue FROM @schema@.enqueue_v1({}) WHERE readiness = 0",
                args(1, 15),
                args(16, 15)
            ))
            .await?,
            fail: prepare(&format!(
                "SELECT ord, outcome, queue FROM @schema@.fail_v1({}) \
                 UNION ALL SELECT NULL, NULL, queue FROM @schema@.enqueue_v1({}) WHERE readiness = 0",
                args(1, 7),
                args(8, 15)
            ))
            .await?,
            next_seqs: prepare(
                "SELECT nextval('@schema@.seq') FROM generate_series(1, $1::bigint)",
            )
            .await?,
        })
    }
}

/// The names of arguments, separated by commas.
fn args(first: usize, count: usize) -> String {
    let args: Vec<_> = (first..first + count).map(|at| format!("${at}")).collect();
    args.join(", ")
}

impl Statements {
    pub(super) async fn prepare(connection: &Connection, connector: &Connector) -> Result<Self> {
        let client = &connection.client;
        let prepare = async |text: &str| client.prepare(&connector.sql(text)).await.map_err(away);
        let call = async |name: &str, count: usize| {
            prepare(&format!("SELECT * FROM @schema@.{name}({})", args(1, count))).await
        };
        let from = format!(
            "SELECT {} FROM @schema@.progress p JOIN @schema@.callback c ON c.seq = p.seq \
             JOIN @schema@.destination d ON d.queue = p.queue",
            rows::COLUMNS
        );
        Ok(Self {
            enqueue: call("enqueue_v1", 15).await?,
            with_events: WithEvents::prepare(connection, connector).await?,
            settle: call("settle_v1", 15).await?,
            replay: call("replay_v1", 5).await?,
            fail: call("fail_v1", 7).await?,
            retry_now: call("retry_now_v1", 4).await?,
            pause: call("pause_v1", 4).await?,
            purge: call("purge_v1", 4).await?,
            forget: call("forget_v1", 4).await?,
            windows: prepare(WINDOWS).await?,
            remove_windows: prepare(REMOVE_WINDOWS).await?,
            mend: call("mend_v1", 3).await?,
            import: call("import_v1", 24).await?,
            records: prepare(&format!("{from} WHERE p.seq = ANY ($1) ORDER BY p.seq")).await?,
            pending: prepare("SELECT pending FROM @schema@.totals_v1()").await?,
            beat: prepare("UPDATE @schema@.instance SET seen_at = $2 WHERE id = $1").await?,
            live: prepare(LIVE).await?,
            shards: prepare(
                "SELECT id, coalesce(owner = $1, false) AS is_mine, clean FROM @schema@.shard ORDER BY id",
            )
            .await?,
            own: prepare("UPDATE @schema@.shard SET owner = $2, clean = false WHERE id = ANY ($1)").await?,
            let_go: prepare("UPDATE @schema@.shard SET clean = true WHERE id = $1 AND owner = $2").await?,
            lock: prepare("SELECT pg_try_advisory_lock($1::integer, $2::integer)").await?,
            unlock: prepare("SELECT pg_advisory_unlock($1::integer, $2::integer)").await?,
            hello: prepare(
                "INSERT INTO @schema@.instance AS i (node, name, seen_at) VALUES ($1, $2, $3) \
                 ON CONFLICT (node) DO UPDATE SET name = excluded.name, seen_at = excluded.seen_at RETURNING i.id",
            )
            .await?,
            fresh: prepare(
                "SELECT count(*) AS count, (SELECT max(seq) FROM @schema@.callback) AS last \
                 FROM @schema@.callback WHERE seq > $1",
            )
            .await?,
            all_pending: prepare(&format!(
                "SELECT d.queue FROM @schema@.destination d CROSS JOIN {COUNTERS} \
                 WHERE (d.queue & 63) = ANY ($1) GROUP BY d.queue HAVING sum(t.pending) > 0"
            ))
            .await?,
            asked: prepare(
                "SELECT id, question FROM @schema@.asked WHERE answer IS NULL AND shard = ANY ($1) ORDER BY id",
            )
            .await?,
            answered: prepare("UPDATE @schema@.asked SET answer = $2 WHERE id = $1").await?,
            open: prepare(
                "UPDATE @schema@.destination d SET open_since = s.since, probe_at = s.probe \
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS s (queue, since, probe) \
                 WHERE d.queue = s.queue",
            )
            .await?,
            recent: prepare(&format!(
                "{from} WHERE p.seq > $1 AND p.readiness < 2 AND (p.queue & 63) = ANY ($2) ORDER BY p.seq"
            ))
            .await?,
            old_questions: prepare("DELETE FROM @schema@.asked WHERE asked_at < $1").await?,
            old: prepare(
                "SELECT p.seq, p.queue FROM @schema@.destination d CROSS JOIN LATERAL ( \
                    SELECT seq, queue FROM @schema@.progress \
                    WHERE queue = d.queue AND status = 0 AND budget_since < $1 AND NOT seq = ANY ($2) \
                    ORDER BY budget_since, seq LIMIT $3) p \
                 WHERE d.paused_at IS NULL AND d.resumed_at < $1 AND (d.queue & 63) = ANY ($4) \
                    AND (d.queue = ANY ($5)) = $6 LIMIT $3",
            )
            .await?,
            fill: prepare(&format!(
                "SELECT {} FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS q (queue, due, seq) \
                 CROSS JOIN LATERAL ( \
                    SELECT * FROM @schema@.progress \
                    WHERE queue = q.queue AND readiness < 2 AND (due, seq) > (q.due, q.seq) \
                    ORDER BY due, seq LIMIT $4) p \
                 JOIN @schema@.callback c ON c.seq = p.seq \
                 JOIN @schema@.destination d ON d.queue = p.queue \
                 ORDER BY p.queue, p.due, p.seq",
                rows::COLUMNS
            ))
            .await?,
            queues: prepare(&format!(
                "SELECT d.queue, d.name, d.hold_until, d.paused_at, d.resumed_at, d.open_since, d.probe_at, \
                    coalesce(c.pending, 0)::bigint AS pending \
                 FROM @schema@.destination d LEFT JOIN LATERAL (SELECT sum(t.pending) AS pending FROM {COUNTERS}) c ON true \
                 WHERE ($1::bigint[] IS NULL OR d.queue = ANY ($1)) AND ($2::integer[] IS NULL OR (d.queue & 63) = ANY ($2))"
            ))
            .await?,
        })
    }
}
