//! Purging beside everything else.

use std::time::Instant;

use super::{error::Result, interface::Outbox, retention::Over};

/// Of the time of a long purge, the part that is left to everything else: so many times what
/// its own steps take.
const PURGE_PAUSE: u32 = 4;

/// Removes all finished callbacks whose retention is over and says how many. It takes its
/// time, so that delivery goes on beside it, and asks before each step what is over.
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
