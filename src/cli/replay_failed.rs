//! `replay-failed`: makes failed callbacks pending again.

use anyhow::Context as _;
use futures_util::FutureExt as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    access::{Access, Purpose},
    output::{Exit, Usage, print},
    results::Results,
};
use crate::{
    api::view::{FilterView, ReplayRequest, ReplayView},
    callback::CallbackId,
    config::Config,
};

/// Callbacks that are replayed with one request: a fraction of a second's work.
const STEP: usize = 5000;

/// Make failed callbacks pending again, with a fresh age and attempt budget
///
/// At least one selector is required; a callback has to match all that are given. Works whether or not
/// the service runs. It works in steps and can be interrupted and run again, because replayed callbacks
/// are no longer failed. The order within each job and the attempts made so far are kept.
///
/// Examples:
///   seal-dpf-urlcallback replay-failed --destination http://callbackhost:8080 --dry-run
///   seal-dpf-urlcallback replay-failed --all --since 12h
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Only this callback; can be given more than once
    #[arg(long)]
    id: Vec<CallbackId>,
    /// Only callbacks to this destination, such as http://host:8080
    #[arg(long)]
    destination: Option<String>,
    /// Only callbacks of this job
    #[arg(long)]
    job_id: Option<String>,
    /// Only callbacks accepted within this duration (`2h`) or since this time (`2026-01-31T08:00:00Z`)
    #[arg(long)]
    since: Option<String>,
    /// All failed callbacks
    #[arg(long)]
    all: bool,
    /// Count only
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Exit> {
    let filter = FilterView {
        ids: args.id.iter().map(ToString::to_string).collect(),
        destination: args.destination,
        job_id: args.job_id,
        since: args.since,
        all: args.all,
    };
    if filter == FilterView::default() {
        let message = "no selector; give --id, --destination, --job-id, --since or --all";
        return Err(Usage(message.into()).into());
    }
    let purpose = if args.dry_run { Purpose::Look } else { Purpose::Change };
    let access = Access::find(config, "replay-failed", purpose).await?;
    let request = ReplayRequest { filter, limit: Some(STEP), ..ReplayRequest::default() };
    let counting = ProgressBar::new_spinner().with_message("counting");
    let count = ReplayRequest { dry_run: true, ..request.clone() };
    let Walk::Done(found) = walk(&access, count, &counting).await? else {
        anyhow::bail!("interrupted; nothing was replayed");
    };
    if args.dry_run {
        print(format_args!("matched {}, replayed 0", found.matched))?;
        return Ok(Exit::Done);
    }
    let bar = ProgressBar::new(found.matched).with_style(
        ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    match walk(&access, request, &bar).await? {
        Walk::Done(done) => {
            let mut results = Results::default();
            results.print(format_args!("matched {}, replayed {}", done.matched, done.replayed));
            results.end()?;
            Ok(Exit::Done)
        }
        Walk::Interrupted(done) => {
            let (matched, replayed) = (found.matched, done.replayed);
            Results::default().print(format_args!("matched {matched}, replayed {replayed}"));
            anyhow::bail!("interrupted; run it again for the rest");
        }
    }
}

enum Walk {
    Done(ReplayView),
    Interrupted(ReplayView),
}

/// Replays everything selected, one step at a time, until the end or Ctrl-C.
async fn walk(
    access: &Access,
    mut request: ReplayRequest,
    bar: &ProgressBar,
) -> anyhow::Result<Walk> {
    let mut sum = ReplayView::default();
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        if (&mut interrupt).now_or_never().is_some() {
            bar.finish_and_clear();
            return Ok(Walk::Interrupted(sum));
        }
        // A step that has begun is waited for: only then is it known what it did.
        let step = access.replay(&request).await.with_context(|| {
            bar.finish_and_clear();
            format!("stopped with {} replayed; run it again for the rest", sum.replayed)
        })?;
        sum.matched += step.matched;
        sum.replayed += step.replayed;
        bar.inc(step.matched);
        request.cursor = step.next_cursor;
        if request.cursor.is_none() {
            bar.finish_and_clear();
            return Ok(Walk::Done(sum));
        }
    }
}
