//! The outbox, compared with a model: random operations, after each of which everything that the outbox
//! returns is compared with the model.
//!
//! The operations are enqueues (batches, repeated keys, refused callbacks, more than there is room
//! for), claims, settlements of every kind, releases, replays, cancels, expiry and purges, also several
//! at once with claims in between; the passing of time; and closing and reopening. After each operation
//! the following holds:
//!
//! - every callback that was accepted and not purged is listed once, in the order of acceptance, in its
//!   state: nothing is lost, nothing is both due and ended, attempts and replays are counted,
//!   duplicates are answered with the id of the first one;
//! - every claimed callback was due, not claimed by anyone else, and the earliest of its job, with the
//!   exception in guarantee 4 of the outbox; and a claim returned everything that was due, up to its
//!   limit;
//! - the summary is a recount of the listing;
//! - no callback of a paused destination is claimed or expires;
//! - a delivery loop that uses only the news and `next_due` looks at each destination no later than it
//!   has something due.
//!
//! At the end, everything is delivered by following the signals, and purged; then the store is as empty
//! as a new one.
//!
//! `PROPTEST_CASES` is the number of cases. For a long run, use a folder in memory, so that the disk
//! has no syncs:
//!
//! ```sh
//! PROPTEST_CASES=20000 TMPDIR=/dev/shm cargo test --test it model::
//! ```
//!
//! A case that fails is reduced and stored in `tests/proptest-regressions/`, and is run first from then
//! on. Earlier findings are also tests in `regressions`.

mod case;
mod check;
mod operation;
mod operator;
mod reference;
mod regressions;
mod wakes;
mod writes;

use std::{path::Path, sync::Arc};

use proptest::{prelude::*, test_runner::Config};
use seal_dpf_urlcallback::{
    clock::SharedClock,
    outbox::{
        Common, Outbox,
        postgres::PostgresOutbox,
        sled::{Settings, SledOutbox},
    },
};

use self::{case::Case, operation::operations};
use crate::support::{eventually, postgres};

/// Maximum number of pending callbacks; small, so that it is sometimes reached.
const MAX_PENDING: usize = 16;

/// How many cases there are without `PROPTEST_CASES`.
const CASES: u32 = 64;

/// Time limit for shrinking a failing case, in milliseconds.
const SHRINK_TIME: u32 = 180_000;

/// An implementation of the outbox.
#[derive(Debug, Clone, Copy)]
struct Factory {
    /// Opens the outbox in this folder, with room for [`MAX_PENDING`]; creates it if there is none.
    open: fn(&Path, SharedClock) -> Arc<dyn Outbox>,
    /// Whether breakers are stored.
    keeps_breakers: bool,
    /// The files that a closed store has left in this folder and that a new store does not have.
    leftovers: fn(&Path) -> Vec<String>,
}

/// The suite, which every implementation must pass.
fn outbox_behaves_as_its_model(factory: Factory) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config {
        cases: CASES,
        max_shrink_time: SHRINK_TIME,
        max_shrink_iters: 100_000,
        ..Config::default()
    };
    proptest!(config, |(operations in operations())| {
        runtime.block_on(Case::run(factory, operations));
    });
}

const SLED: Factory = Factory { open: open_sled, keeps_breakers: false, leftovers: sled_leftovers };

fn open_sled(folder: &Path, clock: SharedClock) -> Arc<dyn Outbox> {
    let settings = Settings {
        common: Common { max_pending: MAX_PENDING as u64, ..Common::default() },
        min_free_bytes: 0,
        cache_bytes: 1 << 20,
    };
    Arc::new(SledOutbox::open(folder, settings, clock).unwrap())
}

fn sled_leftovers(folder: &Path) -> Vec<String> {
    // Threads of the engine release a closed store a moment later.
    let db = eventually("the store is released", || sled::open(folder).ok());
    let rows = db.iter().map(|row| String::from_utf8_lossy(&row.unwrap().0).into_owned());
    rows.filter(|row| !["mformat", "msalt", "mtotals"].contains(&row.as_str())).collect()
}

#[test]
fn the_outbox_on_sled_behaves_as_its_model() {
    outbox_behaves_as_its_model(SLED);
}

const POSTGRES: Factory =
    Factory { open: open_postgres, keeps_breakers: true, leftovers: postgres_leftovers };

fn open_postgres(folder: &Path, clock: SharedClock) -> Arc<dyn Outbox> {
    let server = postgres::server();
    let settings = server.settings(&postgres::schema_of(folder), MAX_PENDING as u64);
    // The server may notice the end of the previous session a moment later.
    let opened = || {
        PostgresOutbox::open_at(settings.clone(), folder.parent().unwrap(), Arc::clone(&clock)).ok()
    };
    let opened = eventually("the schema is released", opened);
    drop(clock);
    Arc::new(opened)
}

fn postgres_leftovers(folder: &Path) -> Vec<String> {
    let schema = format!("\"{}\"", postgres::schema_of(folder));
    postgres::server().run(async |client| {
        let mut left = Vec::new();
        for (table, wanted) in [
            ("callback", "true"),
            ("progress", "true"),
            ("attempt", "true"),
            ("tally", "pending <> 0 OR failed <> 0"),
            ("total", "pending <> 0 OR delivered <> 0 OR failed <> 0"),
        ] {
            let sql = format!("SELECT count(*) FROM {schema}.{table} WHERE {wanted}");
            let rows: i64 = client.query_one(&sql, &[]).await.unwrap().get(0);
            if rows > 0 {
                left.push(format!("{rows} rows in {table}"));
            }
        }
        client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await.unwrap();
        left
    })
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn the_outbox_on_postgres_behaves_as_its_model() {
    outbox_behaves_as_its_model(POSTGRES);
}
