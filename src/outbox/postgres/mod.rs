//! The outbox implemented with PostgreSQL.
//!
//! ```text
//!  enqueue, settle, … ──► writer: one task, one session, one round at a time
//!                            │ publishes after the commit        list, get, summary, export
//!  claim ◄─── queues ◄───────┘                                     └──► read: another connection
//! ```
//!
//! | file | content |
//! |---|---|
//! | `outbox` | implements the trait |
//! | `supervisor` | the task that owns the session, and begins another one when it breaks |
//! | `writer` | all writes of a session: `enqueue`, `settle`, `actions`, `failures`; `statements`, `command`, `storing`, `recording` |
//! | `queues`, `queue`, `loading` | due callbacks in memory: one queue for each destination, and how it is read |
//! | `shard`, `shards`, `claimant`, `node` | which destinations this instance owns, and how long its claims are valid |
//! | `notifications`, `questions`, `routing` | communication between instances |
//! | `read`, `listing`, `summary`, `instances` | look-ups and export, listings, summary, the instances |
//! | `session`, `schema`, `rows`, `clock` | connections, the schema, callbacks as rows, the server's clock |
//!
//! # Invariants
//!
//! - A write is one call of a function of the schema, which PostgreSQL commits before it answers.
//! - A destination belongs to a shard, and a shard to the session that holds its advisory lock. Only the owner
//!   claims, settles, expires and cancels; a session that is gone can write nothing.
//! - All writes of an instance, and the reads that fill its queues, go through one session, one after the
//!   other. So a queue in memory changes in the same order as its rows.
//! - While an operator's action or an expiry is in progress, nothing is claimed: it may change any callback
//!   that is not in flight.
//! - A claim reads memory only. A queue holds the first active callbacks of its destination, in order, and
//!   the position up to which it is complete. Other instances can only add callbacks, and notify the owner.
//! - The order of a job is kept in the database, under a lock of the job, because its callbacks may belong to
//!   different shards.

mod actions;
mod claimant;
mod clock;
mod command;
mod enqueue;
mod failures;
mod instances;
mod listing;
mod loading;
mod node;
mod notifications;
mod outbox;
mod questions;
mod queue;
mod queues;
mod read;
mod recording;
mod routing;
mod rows;
mod schema;
mod session;
mod settings;
mod settle;
mod shard;
mod shards;
mod statements;
mod storing;
mod summary;
mod supervisor;
mod writer;

pub use self::{outbox::PostgresOutbox, session::check_url, settings::Settings};
