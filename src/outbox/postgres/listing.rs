//! Listings: pages of callbacks in order of acceptance.
//!
//! The callbacks of the most selective index are searched in order, up to a limit; the other filters apply to
//! what is found.

use tokio_postgres::Row;

use super::{
    read::{Arg, Reads, selected},
    rows::{self, big, millis},
};
use crate::{
    clock::Timestamp,
    outbox::{
        CallbackStatus, OutboxError, Page, Query, Stage, StateName, error::Result, ids::QueueKey,
    },
};

/// Maximum number of callbacks that are searched for one page.
const LIST_SCAN_LIMIT: i64 = 10_000;

/// Conditions, and the arguments in them.
#[derive(Default)]
struct Conditions<'a> {
    args: Vec<Arg<'a>>,
    texts: Vec<String>,
}

impl<'a> Conditions<'a> {
    /// Adds a condition, in which `$` is replaced with the number of the argument, if that is given.
    fn and(&mut self, text: &str, arg: Option<Arg<'a>>) {
        if let Some(arg) = arg {
            self.args.push(arg);
            self.texts.push(text.replace('$', &format!("${}", self.args.len())));
        }
    }

    /// Selects only pending callbacks at this stage, which depends on what is claimed, the current time, and
    /// the latest time to which anything can have been postponed.
    fn and_at(&mut self, stage: Stage, claimed: Arg<'a>, times: [Arg<'a>; 2]) {
        if stage == Stage::InFlight {
            return self.and("p.seq = ANY ($)", Some(claimed));
        }
        self.and("NOT p.seq = ANY ($)", Some(claimed));
        self.args.extend(times);
        let count = self.args.len();
        let later = format!("p.readiness = 1 AND p.due > ${} AND p.due <= ${count}", count - 1);
        self.texts.push(match stage {
            Stage::Waiting => format!("(p.readiness = 2 OR ({later}))"),
            _ => format!("p.readiness < 2 AND NOT ({later})"),
        });
    }
}

/// The WHERE clause with these conditions.
fn all_of(conditions: &[String]) -> String {
    if conditions.is_empty() {
        String::new()
    } else {
        format!("WHERE {}", conditions.join(" AND "))
    }
}

impl Reads {
    /// One page of a listing.
    pub(super) async fn list(&self, query: Query) -> Result<Page> {
        let limit = i64::try_from(query.limit.max(1)).unwrap_or(i64::MAX);
        let key = query
            .criteria
            .destination
            .as_ref()
            .map(|it| Arg::Long(big(QueueKey::of(&self.salt, it).0)));
        let state = query.criteria.stage.map_or(query.state, |_| Some(StateName::Pending));
        let status = state.map(rows::status).map(Arg::Short);
        let job = query.criteria.job_id.as_deref().map(str::as_bytes).map(Arg::Bytes);
        let directory = query.criteria.job_id_fs.as_deref().map(str::as_bytes).map(Arg::Bytes);
        let kind = query.criteria.error_kind.map(rows::kind).map(Arg::Short);
        let time = |at: Option<Timestamp>| at.map(millis).map(Arg::Long);
        let (ended_since, ended_until) =
            (time(query.criteria.ended_since), time(query.criteria.ended_until));
        let only_ended = ended_since.is_some() || ended_until.is_some();
        if only_ended && state == Some(StateName::Pending) {
            return Ok(Page::default());
        }
        let cursor = query.cursor.map(|id| rows::parts(id).0).map(Arg::Long);
        let claimed = query.criteria.stage.map(|_| self.queues.lock().in_flight());
        let horizon = self.horizon();
        let times = [horizon.now, horizon.latest].map(millis).map(Arg::Long);
        let claimed = claimed.as_deref().map(Arg::Longs);
        let (order, after) = if query.oldest_first { ("ASC", ">") } else { ("DESC", "<") };
        // What is searched.
        let mut all = Conditions::default();
        all.and(&format!("s.seq {after} $"), cursor);
        let ordered = |table: &str, conditions: &[String]| {
            let clause = all_of(conditions);
            format!(
                "SELECT s.seq FROM @schema@.{table} s {clause} ORDER BY s.seq {order} LIMIT {LIST_SCAN_LIMIT}"
            )
        };
        let source = if job.is_some() {
            all.and("s.job = $", job);
            ordered("callback", &all.texts)
        } else if directory.is_some() {
            all.and("s.directory = $", directory);
            ordered("callback", &all.texts)
        } else if status.is_some() {
            all.and("s.status = $", status);
            all.and("s.queue = $", key);
            if query.criteria.stage == Some(Stage::InFlight) {
                all.and("s.seq = ANY ($)", claimed);
            }
            ordered("progress", &all.texts)
        } else if only_ended {
            // Each state has an index in order; the two are merged.
            all.and("s.queue = $", key);
            let ended = |status: i16| {
                ordered(
                    "progress",
                    &[all.texts.clone(), vec![format!("s.status = {status}")]].concat(),
                )
            };
            let (delivered, failed) =
                (rows::status(StateName::Delivered), rows::status(StateName::Failed));
            format!(
                "SELECT s.seq FROM (({}) UNION ALL ({})) AS s ORDER BY s.seq {order} LIMIT {LIST_SCAN_LIMIT}",
                ended(delivered),
                ended(failed)
            )
        } else {
            ordered("progress", &all.texts)
        };
        let searched = all.args.len();
        // What is shown of it.
        all.texts.clear();
        all.and("p.status = $", status);
        all.and("p.queue = $", key);
        all.and("p.error_kind = $", kind);
        all.and("c.directory = $", directory);
        all.and("c.created_at >= $", time(query.criteria.since));
        all.and("c.created_at < $", time(query.criteria.until));
        all.and("p.ended_at >= $", ended_since);
        all.and("p.ended_at < $", ended_until);
        if let (Some(stage), Some(claimed)) = (query.criteria.stage, claimed) {
            all.and_at(stage, claimed, times);
        }
        all.args.push(Arg::Long(limit));
        let sql = format!(
            "{} JOIN ({source}) AS s ON s.seq = p.seq {} ORDER BY p.seq {order} LIMIT ${}",
            selected(),
            all_of(&all.texts),
            all.args.len()
        );
        let found = self.query(&sql, &all.args).await?;
        let mut page = Page { callbacks: self.shown(&found, query.criteria.stage)?, next: None };
        if found.len() >= query.limit.max(1) {
            page.next = found.last().map(|row| rows::id(row.get("seq"), row.get("queue")));
        } else {
            // Whether this is the end, or the limit of the search.
            let end = if query.oldest_first { "max" } else { "min" };
            let sql = format!("SELECT count(*), {end}(s.seq) AS seq FROM ({source}) AS s");
            let row = self.query(&sql, &all.args[..searched]).await?;
            let row = row.first();
            if row.is_some_and(|row| row.get::<_, i64>(0) >= LIST_SCAN_LIMIT) {
                // Only the position matters in a cursor.
                page.next = row.map(|row| rows::id(row.get("seq"), 0));
            }
        }
        Ok(page)
    }

    /// The callbacks of these rows.
    fn shown(&self, found: &[Row], stage: Option<Stage>) -> Result<Vec<CallbackStatus>> {
        let mut shown = Vec::with_capacity(found.len());
        for row in found {
            match self.status(row) {
                // It may have been claimed since.
                Ok(it) if stage.is_some() && it.stage != stage => {}
                Ok(it) => shown.push(it),
                // A callback that cannot be read does not hide the others.
                Err(OutboxError::UnreadableRow { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(shown)
    }
}
