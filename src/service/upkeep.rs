//! What has to be done from time to time: ending what is too old, forgetting what is long over.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::SharedClock,
    config::Config,
    delivery::{jumps::Jumps, log::log_outcome},
    measure,
    outbox::{Outbox, OutboxError, Retention, purge_gently},
};

/// Ends what is too old and forgets what is long over, in small steps, so that no callback
/// waits for it.
pub(super) async fn run(
    outbox: Arc<dyn Outbox>,
    config: Config,
    clock: SharedClock,
    jumps: Arc<Jumps>,
) {
    let Retention { delivered, failed } = config.retention;
    let max_age = config.dispatcher.retry.max_age;
    // Often enough that nothing is late by more than a twentieth of its time.
    let pause = (max_age.min(delivered).min(failed) / 20)
        .clamp(Duration::from_millis(250), Duration::from_mins(1));
    loop {
        tokio::time::sleep(pause).await;
        if let Err(error) = once(&*outbox, &config, &clock, &jumps).await {
            tracing::error!(event.action = "upkeep-failed", error.message = %error, "upkeep failed");
        }
    }
}

async fn once(
    outbox: &dyn Outbox,
    config: &Config,
    clock: &SharedClock,
    jumps: &Jumps,
) -> Result<(), OutboxError> {
    let retry = &config.dispatcher.retry;
    jumps.look();
    while jumps.may_expire() {
        let expired = outbox.expire(jumps.ago(retry.max_age), retry.expired()).await?;
        if expired.is_empty() {
            break;
        }
        expired.iter().for_each(|record| log_outcome(record, None));
    }
    let kept = |age| clock.now().since(jumps.ago(age));
    let Retention { delivered, failed } = config.retention;
    let kept = Retention { delivered: kept(delivered), failed: kept(failed) };
    let purged = purge_gently(outbox, kept).await?;
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
