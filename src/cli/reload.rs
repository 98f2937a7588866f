//! `reload`: makes the running service read its settings again.

use super::{
    access,
    output::{Exit, Output, print, say},
};
use crate::config::Config;

/// Have the running service read its settings again
///
/// Prints what has changed, and what needs a restart. If the settings have faults, nothing changes, and
/// the exit code is 2; it is 3 if the service does not run. The service is asked with the API's token
/// that it knows: after replacing api.token_file, send it SIGHUP instead.
///
/// Example: seal-dpf-urlcallback reload
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let json = args.output.is_json("reload")?;
    let Some(service) = access::listening(config)? else { return Ok(Exit::NotRunning) };
    let view = match service.reload().await? {
        Ok(view) => view,
        Err(faults) => {
            let faults = faults.iter().map(|it| match &it.place {
                Some(place) => format!("\n  {} ({place}): {}", it.key, it.message),
                None => format!("\n  {}: {}", it.key, it.message),
            });
            let faults: String = faults.collect();
            say(format_args!("error: the settings have faults, and nothing has changed:{faults}"));
            return Ok(Exit::Usage);
        }
    };
    for warning in &view.warnings {
        say(format_args!("warning: {warning}"));
    }
    if json {
        print(serde_json::to_string(&view)?)?;
        return Ok(Exit::Done);
    }
    for key in &view.changed {
        print(format_args!("changed: {key}"))?;
    }
    for key in &view.restart {
        print(format_args!("needs a restart: {key}"))?;
    }
    if view.changed.is_empty() && view.restart.is_empty() {
        print("nothing has changed")?;
    }
    Ok(Exit::Done)
}
