//! Claims: taking what is due of one destination.
//!
//! [`queues`] holds every destination with pending callbacks, behind one mutex; [`queue`] is one of
//! them, [`window`] what was read ahead of its claims, and [`scan`] the merge of its two sources.
//!
//! # Invariants
//!
//! - **Nothing unsynced is claimed.** A new callback is not visible to claims before its batch is
//!   synced, because a scan ends at `Totals::next_seq` as memory has it, and only
//!   `Published::publish` raises that, after the sync. A callback that exists already is *busy*
//!   ([`queue::Busy`]) from before a batch that changes it is applied until after its sync, and
//!   claims pass over what is busy.
//! - **Nothing is claimed twice.** A claimed callback is busy until it is settled or released.
//! - **No wake-up is lost.** A claim that found nothing because all that it reached was busy marks
//!   the queue as starved; whoever frees one of those signals the destination.

pub(crate) mod queue;
pub(crate) mod queues;
mod scan;
pub(crate) mod window;
