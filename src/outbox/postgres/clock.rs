//! The server's clock, which all instances share.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio_postgres::Client;

use super::{rows, session::away};
use crate::{
    clock::{Clock, Timestamp},
    outbox::error::Result,
};

/// Interval at which the server's time is queried.
pub(super) const RESYNC: Duration = Duration::from_secs(30);

/// The server's time at the last query, and the time elapsed since then.
#[derive(Debug)]
pub(super) struct ServerClock {
    begin: Instant,
    /// The server's time at `begin`, in milliseconds.
    at_begin: AtomicU64,
}

impl ServerClock {
    /// A clock that shows `now` until it is first set.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { begin: Instant::now(), at_begin: AtomicU64::new(now.as_millis()) }
    }

    /// Asks the server.
    pub(super) async fn set(&self, client: &Client) -> Result<()> {
        let asked = self.begin.elapsed();
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
        let row = client.query_one(sql, &[]).await.map_err(away)?;
        // Assume that the server read its clock halfway between request and answer.
        let half_way = asked + (self.begin.elapsed().saturating_sub(asked)) / 2;
        let at_begin = rows::time(row.get(0)).before(half_way);
        self.at_begin.store(at_begin.as_millis(), Ordering::Relaxed);
        Ok(())
    }
}

impl Clock for ServerClock {
    fn now(&self) -> Timestamp {
        let at_begin = Timestamp::from_millis(self.at_begin.load(Ordering::Relaxed));
        at_begin.after(self.begin.elapsed())
    }
}
