//! How long callbacks are kept that have ended.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{error::OutboxError, interface::Outbox};
use crate::clock::Timestamp;

/// How long finished callbacks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Delivered ones.
    pub delivered: Duration,
    /// Failed ones.
    pub failed: Duration,
}

impl Retention {
    /// What its time is over for at `now`.
    pub fn over(self, now: Timestamp) -> Over {
        Over { delivered: now.before(self.delivered), failed: now.before(self.failed) }
    }
}

/// What is not kept any longer: what has finished at these times or earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Delivered ones.
    pub delivered: Timestamp,
    /// Failed ones.
    pub failed: Timestamp,
}

/// Of the time of a long purge, the part that is left to everything else: so many times what
/// its own steps take.
const PURGE_PAUSE: u32 = 4;

/// Removes all finished callbacks whose retention is over and says how many. It takes its
/// time, so that delivery goes on beside it, and asks before each step what is over.
pub async fn purge_gently(
    outbox: &dyn Outbox,
    over: impl Fn() -> Over + Send,
) -> Result<u64, OutboxError> {
    let mut purged = 0;
    loop {
        let begin = Instant::now();
        match outbox.purge(over()).await? {
            0 => return Ok(purged),
            step => purged += step,
        }
        tokio::time::sleep(begin.elapsed() * PURGE_PAUSE).await;
    }
}
