//! Purging without delaying delivery.

use std::time::Instant;

use super::{error::Result, interface::Outbox, retention::Over};

/// Pause between two steps of a purge, as a multiple of a step's duration.
const PURGE_PAUSE: u32 = 4;

/// Removes all ended callbacks whose retention is over, in steps with pauses, and returns their number.
/// `over` is called before each step.
pub async fn purge_gently(outbox: &dyn Outbox, over: impl Fn() -> Over + Send) -> Result<u64> {
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
