//! The outbox implemented with sled. Only this folder uses the sled API.
//!
//! ```text
//!  enqueue, settle, … ──► commit: one thread, one batch at a time: apply, flush, sync_data
//!                            │ publishes after the sync
//!  claim ◄── shared memory ◄─┘      list, get, summary, export ──► read: on blocking threads,
//!    └─────► tree                                                   answered after the sync
//! ```
//!
//! | folder | content |
//! |---|---|
//! | [`commit`] | writes: the commands, the transaction they build, and the thread that commits it |
//! | [`claim`] | what is due: one queue of callbacks for each destination |
//! | [`read`] | look-ups, listings, summary and export |
//! | [`shared`] | in-memory state shared by these three |
//! | [`rescue`] | damage: all code that depends on sled's file format |
//!
//! The rows and their keys are in [`keys`] and [`rows`]. `commit`, `claim` and `read` can be read
//! without `rescue`, which only [`open`] and the committer call.
//!
//! Opening is recovery: counters are rows of the same tree and change in the same batch as what they
//! count, claims exist only in memory, and the due index lists what is due. No other rows need to be
//! scanned.
mod blocks;
mod claim;
mod commit;
mod fsync;
mod guard;
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
