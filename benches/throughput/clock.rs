//! Times: what all processes of a measurement read and report.

use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// Time-out of a measurement.
const PATIENCE: Duration = Duration::from_mins(10);

/// Microseconds since 1970.
pub(crate) fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Polls until the result is `Some`.
pub(crate) fn eventually<T>(
    what: &str,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = ask()? {
            return Ok(found);
        }
        ensure!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How long something took, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: u32,
    pub(crate) p99: u32,
}

impl Latency {
    pub(crate) fn of(mut all: Vec<u32>) -> Self {
        all.sort_unstable();
        let at = |percent: usize| all.get((all.len() * percent / 100).min(all.len().max(1) - 1));
        Self { p50: at(50).copied().unwrap_or(0), p99: at(99).copied().unwrap_or(0) }
    }
}
