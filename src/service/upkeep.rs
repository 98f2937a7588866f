//! Periodic work: expiring callbacks, purging ended callbacks, and repairing stuck ones.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::Config,
    delivery::jumps::Jumps,
    measure,
    outbox::{Outbox, OutboxError, Retention, purge_gently},
    report,
};

/// Pause between two steps of the search for stuck jobs, as a multiple of a step's duration.
const MEND_PAUSE: u32 = 50;

/// Pause between two searches for stuck jobs.
const BETWEEN_MENDS: Duration = Duration::from_mins(10);

/// Does this work in small steps, so that it does not delay callbacks.
pub(super) async fn run(outbox: Arc<dyn Outbox>, config: Config, jumps: Arc<Jumps>) {
    tokio::join!(age(Arc::clone(&outbox), config, jumps), mend(&*outbox));
}

fn report_failure(error: &OutboxError) {
    if error.is_away() {
        report::store_away("upkeep failed", error);
    } else {
        tracing::error!(event.action = "upkeep-failed", error.message = %error, "upkeep failed");
    }
}

/// Searches for stuck callbacks, and repairs what can be repaired.
async fn mend(outbox: &dyn Outbox) {
    loop {
        match mend_all(outbox).await {
            Ok(stuck) => measure::stuck(stuck),
            Err(error) => report_failure(&error),
        }
        tokio::time::sleep(BETWEEN_MENDS).await;
    }
}

/// One search; returns the number of callbacks that cannot be repaired.
async fn mend_all(outbox: &dyn Outbox) -> Result<u64, OutboxError> {
    let (mut after, mut stuck) = (Vec::new(), 0);
    loop {
        let begin = Instant::now();
        let step = outbox.mend(after).await?;
        if step.mended > 0 || step.stuck > 0 {
            tracing::error!(
                event.action = "store-mended",
                callback.mended = step.mended,
                callback.stuck = step.stuck,
                "callbacks were stuck because rows of the store were missing"
            );
        }
        stuck += step.stuck;
        match step.next {
            Some(next) => after = next,
            None => return Ok(stuck),
        }
        tokio::time::sleep(begin.elapsed() * MEND_PAUSE).await;
    }
}

/// Expires and purges.
async fn age(outbox: Arc<dyn Outbox>, config: Config, jumps: Arc<Jumps>) {
    let Retention { delivered, failed } = config.retention;
    let max_age = config.dispatcher.retry.max_age;
    // Often enough that nothing is late by more than a twentieth of its age.
    let pause = (max_age.min(delivered).min(failed) / 20)
        .clamp(Duration::from_millis(250), Duration::from_mins(1));
    loop {
        tokio::time::sleep(pause).await;
        if let Err(error) = once(&*outbox, &config, &jumps).await {
            report_failure(&error);
        }
    }
}

async fn once(outbox: &dyn Outbox, config: &Config, jumps: &Jumps) -> Result<(), OutboxError> {
    let retry = &config.dispatcher.retry;
    while jumps.may_expire() {
        let expired = outbox.expire(jumps.ago(retry.max_age), retry.expired()).await?;
        if expired.is_empty() {
            break;
        }
        expired.iter().for_each(report::outcome);
    }
    let over = || config.retention.over(|age| jumps.ago(age));
    let purged = purge_gently(outbox, over).await?;
    if purged > 0 {
        measure::purged(purged);
        tracing::info!(
            event.action = "callbacks-purged",
            callback.count = purged,
            "callbacks whose retention is over were removed"
        );
    }
    Ok(())
}
