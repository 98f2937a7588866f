//! `status`: whether the service runs.

use serde_json::json;

use super::{Exit, Output, Usage, access, print, table};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
};

/// Say whether the service runs, since when, whether it takes events, and how much is queued
///
/// Exit code 0 when it runs, 3 when it does not.
///
/// Example: seal-dpf-urlcallback status --output json
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    if args.output == Output::Ndjson {
        return Err(Usage("status prints a table or json".into()).into());
    }
    let json = args.output == Output::Json;
    let Some((service, note)) = access::running(config)? else {
        if json {
            print(json!({"running": false}))?;
        } else {
            print("not running")?;
        }
        return Ok(Exit::NotRunning);
    };
    let ready = service.ready().await?;
    let queue = service.queue().await?;
    if json {
        print(json!({
            "running": true,
            "pid": note.as_ref().map(|it| it.pid),
            "address": note.as_ref().map(|it| it.address),
            "version": note.as_ref().map(|it| it.version.as_str()),
            "startedAt": note.as_ref().map(|it| it.started_at),
            "ready": ready.is_ok(),
            "reason": ready.err(),
            "queue": queue,
        }))?;
        return Ok(Exit::Done);
    }
    match &note {
        Some(note) => print(format_args!(
            "running as pid {} on {}, started {}",
            note.pid,
            note.address,
            table::relative(note.started_at, SystemClock.now()),
        ))?,
        None => print("running")?,
    }
    match ready {
        Ok(()) => print("ready: events are taken")?,
        Err(reason) => print(format_args!("not ready: {reason}"))?,
    }
    print(format_args!(
        "pending {} (due {}, waiting {}, in flight {})   delivered {}   failed {}",
        queue.pending, queue.due, queue.waiting, queue.in_flight, queue.delivered, queue.failed
    ))?;
    Ok(Exit::Done)
}
