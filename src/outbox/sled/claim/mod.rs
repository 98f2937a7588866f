//! Claims: taking what is due of one destination.
//!
//! [`queues`] contains all destinations with pending callbacks, behind one mutex; [`queue`] is one of
//! them, [`window`] contains the callbacks read ahead of its claims, and [`scan`] merges the two
//! sources of due callbacks.
//!
//! # Invariants
//!
//! - **Nothing unsynced is claimed.** A new callback is not visible to claims before its batch is
//!   synced: a scan ends at `Totals::next_seq` in memory, and only `Published::publish` raises that,
//!   after the sync. An existing callback is *busy* ([`queue::Busy`]) from before a batch that changes
//!   it is applied until after its sync, and claims skip busy callbacks.
//! - **Nothing is claimed twice.** A claimed callback is busy until it is settled or released.
//! - **No wake-up is lost.** A claim that found only busy callbacks marks the queue as starved. When
//!   one of them is freed, the destination is signalled.

pub(crate) mod queue;
pub(crate) mod queues;
mod scan;
pub(crate) mod window;
