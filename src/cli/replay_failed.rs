//! `replay-failed`: makes failed callbacks pending again.

use super::{
    action::{self, ActionArgs},
    output::Exit,
};
use crate::{api::action_view::ReplayView, config::Config, select::Action};

/// Make failed callbacks pending again, with a fresh age and attempt budget
///
/// At least one selector is required; a callback must match all of them. Works whether or not the
/// service runs. It works in steps and can be interrupted and run again, because replayed
/// callbacks are no longer failed. The order within each job and the attempts made so far are
/// kept.
///
/// Examples:
///   seal-dpf-urlcallback replay-failed --destination http://callbackhost:8080 --dry-run
///   seal-dpf-urlcallback replay-failed --job-id-fs 201602231834182304
///   seal-dpf-urlcallback replay-failed --error-kind expired --destination http://callbackhost:8080
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    which: ActionArgs,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Exit> {
    action::run::<ReplayView>(config, "replay-failed", Action::Replay, args.which).await
}
