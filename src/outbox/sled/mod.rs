//! The outbox on sled, the embedded store. Nothing outside this folder names sled.
//!
//! ```text
//!  enqueue, settle, … ──► commit: one thread, one batch at a time: apply, flush, sync_data
//!                            │ publishes after the sync
//!  claim ◄── shared memory ◄─┘      list, get, summary, export ──► read: on blocking threads,
//!    └─────► tree                                                   answered after the sync
//! ```
//!
//! | folder | what |
//! |---|---|
//! | [`commit`] | every write: the commands, the transaction that they change, and the thread that commits it |
//! | [`claim`] | what is due: one queue of callbacks for each destination |
//! | [`read`] | look-ups, listings, summary and export |
//! | [`shared`] | what the three share in memory |
//! | [`rescue`] | damage: everything that knows sled's file format |
//!
//! The rows and their keys are in [`keys`] and [`rows`]. `commit`, `claim` and `read` can be read
//! without `rescue`, which only [`open`] and the committer call.
//!
//! Opening is recovery: counters are rows of the same tree and change in the same batch as what
//! they count, claims live in memory only, and the due index says what is due. No row is scanned
//! that is not needed.

mod blocks;
mod claim;
mod commit;
mod fsync;
mod guard;
mod horizon;
mod keys;
mod migrate;
mod open;
mod outbox;
mod private_copy;
mod read;
mod rescue;
mod rows;
mod shared;

pub use self::{
    outbox::SledOutbox, private_copy::CopyError, rescue::salvage::Salvage, shared::store::Settings,
};
