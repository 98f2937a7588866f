//! Periodic work: expiring callbacks, purging ended callbacks, and repairing stuck ones.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    callback::Destination,
    clock::Timestamp,
    config::Config,
    delivery::{jumps::Jumps, retry, settings},
    measure,
    outbox::{
        DestinationQuery, DestinationSummary, Outbox, OutboxError, Retention, Scope, purge_gently,
    },
    report,
};

/// Pause between two steps of the search for stuck jobs, as a multiple of a step's duration.
const MEND_PAUSE: u32 = 50;

/// Number of destinations that are read at once.
const PAGE: usize = 1000;

/// How late a notice may be stored, and the pause after a failure. Each failure is logged.
const BETWEEN_NOTICES: Duration = Duration::from_secs(1);
const AFTER_A_FAILURE: Duration = Duration::from_secs(10);

/// Pause between two searches for stuck jobs.
const BETWEEN_MENDS: Duration = Duration::from_mins(10);

/// Runs this work in small steps, so that it does not delay callbacks.
pub(super) async fn run(
    outbox: Arc<dyn Outbox>,
    config: watch::Receiver<Arc<Config>>,
    jumps: Arc<Jumps>,
) {
    let notifies = config.borrow().notify.is_some();
    let age = age(Arc::clone(&outbox), config, jumps);
    tokio::join!(age, mend(&*outbox), async {
        if notifies {
            notify(&*outbox).await;
        }
    });
}

/// Stores notices of failures when their windows are over.
async fn notify(outbox: &dyn Outbox) {
    loop {
        let pause = match outbox.notify().await {
            Ok(0) => BETWEEN_NOTICES,
            Ok(stored) => {
                tracing::info!(
                    event.action = "notices-stored",
                    callback.count = stored,
                    "notices of failed callbacks stored"
                );
                continue;
            }
            Err(error) => {
                report_failure(&error);
                AFTER_A_FAILURE
            }
        };
        tokio::time::sleep(pause).await;
    }
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
async fn age(
    outbox: Arc<dyn Outbox>,
    mut reloaded: watch::Receiver<Arc<Config>>,
    jumps: Arc<Jumps>,
) {
    loop {
        let config = Arc::clone(&reloaded.borrow_and_update());
        tokio::select! {
            () = tokio::time::sleep(pause(&config)) => {}
            Ok(()) = reloaded.changed() => continue,
        }
        if let Err(error) = once(&*outbox, &config, &jumps).await {
            report_failure(&error);
        }
    }
}

/// The interval at which nothing is late by more than a twentieth of its age.
fn pause(config: &Config) -> Duration {
    let Retention { delivered, failed } = config.retention;
    let loop_settings = &config.dispatcher;
    let sections = loop_settings.sections.iter().map(|(_, section)| section.retry.max_age);
    let ages = sections.chain([loop_settings.retry.max_age, delivered, failed]);
    let shortest = ages.min().unwrap_or_default();
    (shortest / 20).clamp(Duration::from_millis(250), Duration::from_mins(1))
}

async fn once(outbox: &dyn Outbox, config: &Config, jumps: &Jumps) -> Result<(), OutboxError> {
    for (of, retry) in scopes(outbox, &config.dispatcher, outbox.clock().now()).await? {
        while jumps.may_expire() {
            let cutoff = jumps.ago(retry.max_age);
            let expired = outbox.expire(of.clone(), cutoff, retry.expired()).await?;
            if expired.is_empty() {
                break;
            }
            expired.iter().for_each(report::outcome);
        }
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

/// The destinations that have the same `max_age`, with their settings.
async fn scopes<'a>(
    outbox: &dyn Outbox,
    settings: &'a settings::Settings,
    now: Timestamp,
) -> Result<Vec<(Scope, &'a retry::Settings)>, OutboxError> {
    let general = &settings.retry;
    let differs = |it: &retry::Settings| it.max_age != general.max_age;
    if !settings.sections.iter().any(|(_, section)| differs(&section.retry)) {
        return Ok(vec![(Scope::All, general)]);
    }
    let mut others: HashSet<Destination> = HashSet::new();
    let mut of: Vec<(HashSet<Destination>, &retry::Settings)> = Vec::new();
    let mut query = DestinationQuery { limit: PAGE, ..DestinationQuery::default() };
    loop {
        let page = outbox.destinations(query.clone(), now).await?;
        for DestinationSummary { destination, .. } in page.destinations {
            let retry = settings.retry(&destination);
            if !differs(retry) {
                continue;
            }
            others.insert(destination.clone());
            match of.iter_mut().find(|(_, it)| it.keys == retry.keys) {
                Some((these, _)) => drop(these.insert(destination)),
                None => of.push((HashSet::from([destination]), retry)),
            }
        }
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    let of = of.into_iter().map(|(these, retry)| (Scope::Only(Arc::new(these)), retry));
    Ok(of.chain([(Scope::Except(Arc::new(others)), general)]).collect())
}
