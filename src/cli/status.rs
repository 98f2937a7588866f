//! `status`: reports whether the service runs.

use serde_json::json;

use super::{
    access::{self, Running, Service},
    output::{Exit, Output, print},
    screen::Screen,
    table, text,
};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    datadir::Note,
};

/// Report whether the service runs, whether it accepts events, and how much is queued
///
/// The exit code is 0 if it runs, 3 if it does not, and 1 if that is unknown or it does not respond.
///
/// Example: seal-dpf-urlcallback status --output json
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let json = args.output.is_json("status")?;
    match access::running(config)? {
        Running::Not => {
            if json {
                print(json!({"running": false}))?;
            } else {
                print("not running")?;
            }
            Ok(Exit::NotRunning)
        }
        Running::Silent(holder) => {
            let reason = "it is starting up or shutting down";
            if json {
                print(json!({
                    "running": true, "pid": holder.pid, "ready": false, "reason": reason,
                }))?;
            } else {
                print(format_args!("running as pid {}\nnot ready: {reason}", holder.pid))?;
            }
            Ok(Exit::Done)
        }
        Running::Listening(service, note) => {
            let shown = listening(&service, &note, json).await;
            if let Err(error) = &shown
                && json
            {
                print(json!({
                    "running": true, "pid": note.pid, "address": note.address,
                    "version": note.version, "startedAt": note.started_at,
                    "ready": false, "reason": format!("{error:#}"),
                }))?;
            }
            shown.map(|()| Exit::Done)
        }
    }
}

async fn listening(service: &Service, note: &Note, json: bool) -> anyhow::Result<()> {
    let now = SystemClock.now();
    if !json {
        let (since, ago) = (text::moment(note.started_at), text::relative(note.started_at, now));
        print(format_args!("running as pid {}, version {}", note.pid, note.version))?;
        print(format_args!("on {}, since {since} ({ago})", note.base(note.address)))?;
    }
    let ready = service.ready().await?;
    if !json {
        match &ready.reason {
            None => print("ready: accepting events")?,
            Some(reason) => print(format_args!("not ready: {reason}"))?,
        }
        if let Some(nats) = &ready.nats {
            let reason = nats.reason.as_ref().map(|it| format!(": {it}")).unwrap_or_default();
            print(format_args!("events from NATS: {}{reason}", nats.state.word()))?;
        }
    }
    let queue = service.queue().await?;
    if json {
        let mut shown = json!({
            "running": true,
            "pid": note.pid,
            "address": note.address,
            "version": note.version,
            "startedAt": note.started_at,
            "ready": ready.reason.is_none(),
            "reason": ready.reason,
            "queue": queue,
        });
        if let Some(nats) = &ready.nats {
            shown["nats"] = json!(nats);
        }
        print(shown)?;
        return Ok(());
    }
    table::head(&queue, Screen::now(), now).into_iter().try_for_each(print)?;
    table::instances(&queue, Screen::now(), now).into_iter().try_for_each(print)?;
    Ok(())
}
