//! The outbox implemented with PostgreSQL.
//!
//! ```text
//!  enqueue, settle, … ──► writer: one task, one session, one round at a time
//!                            │ publishes after the commit        list, get, summary, export
//!  claim ◄──── lanes ◄───────┘                                     └──► read: another connection
//! ```
//!
//! | file | content |
//! |---|---|
//! | `outbox` | the trait |
//! | `writer` | the task that makes all writes, and the calls `enqueue`, `settle` and `actions` |
//! | `lanes`, `lane` | what is due, in memory: one lane for each destination |
//! | `read`, `summary` | look-ups, listings, summary and export |
//! | `session`, `schema` | connecting; creating and migrating the schema |
//! | `rows` | callbacks as rows |
//! | `clock` | the server's clock |
//!
//! # Invariants
//!
//! - A write is one call of a function of the schema, which PostgreSQL commits before it answers.
//! - All writes, and the reads that fill lanes, go through one session, one after the other. So a lane in
//!   memory changes in the same order as its rows, and no read has to be compared with a write at the
//!   same time.
//! - While an operator's action or an expiry is on its way, nothing is claimed: it may change any callback
//!   that is not in flight.
//! - A claim reads memory only. A lane holds the first active callbacks of its destination, in order, and
//!   knows up to which one it holds all of them.
//! - The session holds a lock on the schema, so that only one instance uses it. When the session ends,
//!   PostgreSQL lets go of the lock, and everything that was claimed is lost.

mod actions;
mod clock;
mod command;
mod enqueue;
mod lane;
mod lanes;
mod outbox;
mod read;
mod rows;
mod schema;
mod session;
mod settle;
mod summary;
mod writer;

use std::{path::PathBuf, time::Duration};

use crate::{callback::SecretUrl, tls::PairFiles};

pub use self::{outbox::PostgresOutbox, session::check_url};

/// The settings `outbox.postgres.*`, and those of `outbox.*` that every store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// URL of the database, `postgresql://user:password@host/database`.
    pub url: SecretUrl,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// Certificates that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate and its key.
    pub identity: Option<PairFiles>,
    /// Name of the schema, which the store creates and has for itself.
    pub schema: String,
    /// Maximum number of pending callbacks.
    pub max_pending: u64,
    /// The longest time until a retry or the end of a hold. A later time was stored while the clock was
    /// ahead, and is treated as past.
    pub longest_pause: Duration,
}
