//! Windows of failures, which become notices.
//!
//! `note_failures_v1` counts in the transaction in which callbacks fail. Each instance has its own windows,
//! so that instances do not wait for each other, and turns them into notices itself; the windows of an
//! instance that is gone are handled by any other. A notice is stored first, under the same event id each
//! time, and then its window is removed.

use std::{collections::BTreeMap, time::Duration};

use tokio_postgres::{Row, types::ToSql};

use super::{
    enqueue::Called,
    rows::{self, millis},
    writer::Writer,
};
use crate::{
    clock::Timestamp,
    outbox::{ErrorKind, Failure, error::Result, notice::FailureWindow, record},
};

/// Maximum number of windows that one step turns into notices.
const STEP: i64 = 200;

/// After this time, an instance whose window is over counts as gone.
const GONE_AFTER: Duration = Duration::from_mins(1);

/// Destination, instance and beginning of a window.
type Place = (i64, i32, i64);

impl Writer {
    /// Stores the notices for windows that are over, up to a limit, and returns their number.
    pub(super) async fn notify(&self) -> Result<u64> {
        let Some(notices) = self.settings.common.notices.clone() else { return Ok(0) };
        let now = self.now();
        let over = now.before(notices.window());
        let gone = over.before(GONE_AFTER);
        let args: [&(dyn ToSql + Sync); 5] =
            [&millis(over), &millis(gone), &self.slot, &millis(now), &STEP];
        let mut windows = BTreeMap::<Place, FailureWindow>::new();
        for row in self.query(&self.statements.windows, &args).await? {
            let place = (row.get("queue"), row.get("slot"), row.get("since"));
            let part = part(&row)?;
            let whole = match windows.remove(&place) {
                Some(known) => known.with(part),
                None => part,
            };
            windows.insert(place, whole);
        }
        if windows.is_empty() {
            return Ok(0);
        }
        let notices: Vec<_> = windows.values().map(|window| notices.about(window)).collect();
        if !matches!(self.call_anew(&notices.iter().collect::<Vec<_>>()).await?, Called::Stored(_))
        {
            // The limit of pending callbacks is reached.
            return Ok(0);
        }
        let mut places = (Vec::new(), Vec::new(), Vec::new());
        for (queue, slot, since) in windows.into_keys() {
            places.0.push(queue);
            places.1.push(slot);
            places.2.push(since);
        }
        let args: [&(dyn ToSql + Sync); 3] = [&places.0, &places.1, &places.2];
        self.query(&self.statements.remove_windows, &args).await?;
        Ok(notices.len() as u64)
    }
}

/// The failures of one kind in a window.
fn part(row: &Row) -> Result<FailureWindow> {
    let id = |seq: &str| rows::id(row.get(seq), row.get("queue"));
    let error: Option<Vec<u8>> = row.get("error");
    let error = error.map(|bytes| record::decode::<Failure>(&bytes)).transpose()?;
    let kind = rows::kind_at(row.get("kind")).unwrap_or(ErrorKind::Connect);
    Ok(FailureWindow {
        destination: crate::callback::Destination::from_stored(row.get("name")),
        since: Timestamp::from_millis(rows::count(row.get("since"))),
        first: id("first_seq"),
        last: id("last_seq"),
        kinds: vec![(kind, rows::count(row.get("failed")))],
        error: error.unwrap_or_else(|| Failure::new(kind, "")),
    })
}
