//! `replay-failed`: sends again what has finally failed.

use super::{Exit, Usage, access::Access, print};
use crate::{
    api::view::{FilterView, ReplayRequest},
    callback::CallbackId,
    config::Config,
};

/// Make failed callbacks pending again, with a fresh age and attempt budget
///
/// At least one selector is needed; several have to hold at once. Works whether or not the
/// service runs, and can be run again: what was replayed is not failed any more.
///
/// Example: seal-dpf-urlcallback replay-failed --destination http://callbackhost:8080 --dry-run
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this one, as often as needed
    #[arg(long)]
    id: Vec<CallbackId>,
    /// Only those to this destination, such as http://host:8080
    #[arg(long)]
    destination: Option<String>,
    /// Only those of this job
    #[arg(long)]
    job_id: Option<String>,
    /// Only those accepted within this time (`2h`), or since then (`2026-01-31T08:00:00Z`)
    #[arg(long)]
    since: Option<String>,
    /// All failed ones
    #[arg(long)]
    all: bool,
    /// Only count them
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
        let message = "say which ones: --id, --destination, --job-id, --since or --all";
        return Err(Usage(message.into()).into());
    }
    let access = Access::find(config, false)?;
    let report = access.replay(&ReplayRequest { filter, dry_run: args.dry_run }).await?;
    print(format_args!("matched {}, replayed {}", report.matched, report.replayed))?;
    Ok(Exit::Done)
}
