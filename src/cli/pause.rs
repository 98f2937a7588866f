//! `pause` and `resume`: destinations.

use super::{
    access::{Access, Purpose},
    output::{Exit, Usage, say},
    results::Results,
};
use crate::{config::Config, select};

/// Pause destinations: their callbacks are kept but neither sent nor allowed to expire
///
/// The pause is stored, and lasts until `resume` even if the service is restarted. Events are still
/// accepted, and attempts in progress are completed. Works whether or not the service runs.
///
/// Example: seal-dpf-urlcallback pause --destination http://callbackhost:8080
#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    /// Scheme, host and port, such as http://host:8080; can be repeated
    #[arg(long, required = true)]
    destination: Vec<String>,
}

/// Resume paused destinations
///
/// The age of the callbacks (retry.max_age) starts again when the destination is resumed. Works whether
/// or not the service runs.
///
/// Example: seal-dpf-urlcallback resume --destination http://callbackhost:8080
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// Scheme, host and port, such as http://host:8080; can be repeated
    #[arg(long, required = true)]
    destination: Vec<String>,
}

pub(super) async fn pause(config: &Config, args: PauseArgs) -> anyhow::Result<Exit> {
    set(config, "pause", args.destination, true).await
}

pub(super) async fn resume(config: &Config, args: ResumeArgs) -> anyhow::Result<Exit> {
    set(config, "resume", args.destination, false).await
}

async fn set(
    config: &Config,
    command: &str,
    destinations: Vec<String>,
    paused: bool,
) -> anyhow::Result<Exit> {
    for destination in &destinations {
        select::parse_callable(destination).map_err(|error| Usage(error.to_string()))?;
    }
    let access = Access::find(config, command, Purpose::Change).await?;
    let (mut exit, mut results) = (Exit::Done, Results::default());
    let done = if paused { "paused" } else { "resumed" };
    for destination in destinations {
        match access.pause(&destination, paused).await {
            Ok(it) => {
                results.print(format_args!("{done} {}: {} pending", it.destination, it.pending));
            }
            Err(error) => {
                say(format_args!("error: {error:#}"));
                exit = Exit::Failed;
            }
        }
    }
    results.end()?;
    Ok(exit)
}
