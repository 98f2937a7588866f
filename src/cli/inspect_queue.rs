//! `inspect-queue`: what is stuck, why, and what happens next.

use serde_json::json;

use super::{
    Exit, Output,
    access::{Access, Listing},
    print, say, table,
};
use crate::{
    api::view::{CallbackView, QueueView},
    callback::CallbackId,
    clock::{Clock as _, SystemClock},
    config::Config,
    outbox::StateName,
};

/// How many callbacks are asked for at once.
const PAGE: usize = 1000;

/// Show the queue: counts first, then the callbacks, newest first
///
/// Works whether or not the service runs.
///
/// Examples:
///   seal-dpf-urlcallback inspect-queue --state pending
///   seal-dpf-urlcallback inspect-queue --destination http://callbackhost:8080 --since 2h
///   seal-dpf-urlcallback inspect-queue --id 0000000000001ejm1n07i3ceqc --output json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Only those in this state: pending, delivered, failed
    #[arg(long, value_parser = ["pending", "delivered", "failed"])]
    state: Option<String>,
    /// Only those to this destination, such as http://host:8080
    #[arg(long)]
    destination: Option<String>,
    /// Only those of this job
    #[arg(long)]
    job_id: Option<String>,
    /// Only this one, with its body and every attempt
    #[arg(long, conflicts_with_all = ["state", "destination", "job_id", "since", "limit"])]
    id: Option<CallbackId>,
    /// Only those accepted within this time (`2h`), or since then (`2026-01-31T08:00:00Z`)
    #[arg(long)]
    since: Option<String>,
    /// At most so many callbacks
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Exit> {
    let access = Access::find(config, false)?;
    if let Some(id) = args.id {
        return one(&access, id, args.output).await;
    }
    let queue = access.queue().await?;
    let mut listing = Listing {
        state: args.state,
        destination: args.destination,
        job_id: args.job_id,
        since: args.since,
        ..Listing::default()
    };
    let mut callbacks = Vec::new();
    let mut left = args.limit;
    loop {
        listing.limit = left.min(PAGE);
        if left == 0 {
            break;
        }
        let page = access.list(&listing).await?;
        left -= page.callbacks.len().min(left);
        listing.cursor = page.next_cursor;
        if args.output == Output::Ndjson {
            for callback in &page.callbacks {
                print(serde_json::to_string(callback)?)?;
            }
        } else {
            callbacks.extend(page.callbacks);
        }
        if listing.cursor.is_none() {
            break;
        }
    }
    match args.output {
        Output::Ndjson => {}
        Output::Json => print(serde_json::to_string(&json!({
            "queue": queue, "callbacks": callbacks, "nextCursor": listing.cursor,
        }))?)?,
        Output::Table => {
            print(head(&queue))?;
            if !callbacks.is_empty() {
                print(format_args!("\n{}", rows(&callbacks)))?;
            }
            if listing.cursor.is_some() {
                say("there are more; --limit shows them");
            }
        }
    }
    Ok(Exit::Done)
}

async fn one(access: &Access, id: CallbackId, output: Output) -> anyhow::Result<Exit> {
    let Some(callback) = access.one(id).await? else {
        anyhow::bail!("there is no callback {id}");
    };
    match output {
        Output::Json | Output::Ndjson => print(serde_json::to_string(&callback)?)?,
        Output::Table => print(serde_json::to_string_pretty(&callback)?)?,
    }
    Ok(Exit::Done)
}

fn head(queue: &QueueView) -> String {
    let mut text = format!(
        "pending {} (due {}, waiting {}, in flight {})   delivered {}   failed {}",
        queue.pending, queue.due, queue.waiting, queue.in_flight, queue.delivered, queue.failed
    );
    if queue.due > 0 {
        let age = std::time::Duration::from_secs(queue.oldest_due_seconds);
        text.push_str("\noldest due for ");
        text.push_str(&table::duration(age));
    }
    if queue.destinations.is_empty() {
        return text;
    }
    let now = SystemClock.now();
    let mut rows = table::new(&["DESTINATION", "PENDING", "IN FLIGHT", "FAILED", "STATE"]);
    for it in &queue.destinations {
        let state = match (it.next_probe_at, it.hold_until) {
            (Some(at), _) => format!("open, next probe {}", table::relative(at, now)),
            (None, Some(at)) => format!("on hold, ends {}", table::relative(at, now)),
            (None, None) => "closed".into(),
        };
        rows.add_row([
            it.destination.clone(),
            it.pending.to_string(),
            it.in_flight.to_string(),
            it.failed.to_string(),
            state,
        ]);
    }
    text.push_str("\n\n");
    text.push_str(&rows.trim_fmt());
    text
}

fn rows(callbacks: &[CallbackView]) -> String {
    let now = SystemClock.now();
    let mut rows = table::new(&[
        "ID",
        "STATE",
        "JOB",
        "JOB STATE",
        "ACCEPTED",
        "TRIES",
        "NEXT",
        "DESTINATION",
        "LAST ERROR",
    ]);
    for it in callbacks {
        let next = match (it.state, it.next_attempt_at, &it.waiting_for) {
            (StateName::Pending, Some(at), _) if at <= now => "now".into(),
            (StateName::Pending, Some(at), _) => table::relative(at, now),
            (StateName::Pending, None, Some(other)) => format!("after {other}"),
            _ => "-".into(),
        };
        let error = it.last_error.as_ref().map_or_else(
            || "-".to_owned(),
            |error| format!("{}: {}", error.kind.as_str(), table::one_line(&error.message)),
        );
        rows.add_row([
            it.id.clone(),
            it.state.as_str().into(),
            table::one_line(&it.job_id),
            it.job_state.as_str().into(),
            table::relative(it.created_at, now),
            it.attempt_count.to_string(),
            next,
            it.destination.clone().unwrap_or_else(|| "-".into()),
            error,
        ]);
    }
    rows.trim_fmt()
}
