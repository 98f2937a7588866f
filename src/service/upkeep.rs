//! What has to be done from time to time: ending what is too old, forgetting what is long over.

use std::{sync::Arc, time::Duration};

use crate::{
    config::Config,
    delivery::{jumps::Jumps, log::log_outcome},
    measure,
    outbox::{Outbox, OutboxError, Over, Retention, purge_gently},
};

/// Ends what is too old and forgets what is long over, in small steps, so that no callback
/// waits for it.
pub(super) async fn run(outbox: Arc<dyn Outbox>, config: Config, jumps: Arc<Jumps>) {
    let Retention { delivered, failed } = config.retention;
    let max_age = config.dispatcher.retry.max_age;
    // Often enough that nothing is late by more than a twentieth of its time.
    let pause = (max_age.min(delivered).min(failed) / 20)
        .clamp(Duration::from_millis(250), Duration::from_mins(1));
    loop {
        tokio::time::sleep(pause).await;
        if let Err(error) = once(&*outbox, &config, &jumps).await {
            tracing::error!(event.action = "upkeep-failed", error.message = %error, "upkeep failed");
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
        expired.iter().for_each(|record| log_outcome(record, None));
    }
    let Retention { delivered, failed } = config.retention;
    let over = || Over { delivered: jumps.ago(delivered), failed: jumps.ago(failed) };
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
