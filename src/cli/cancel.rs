//! `cancel`: cancels pending callbacks.

use super::{
    access::{Access, Purpose},
    action::{self, ActionArgs},
    output::{Exit, say},
    results::Results,
};
use crate::{api::action_view::CancelView, callback::CallbackId, config::Config, select::Action};

/// Cancel pending callbacks. They are then failed, with the error kind `cancelled`
///
/// At least one selector is required; a callback must match all of them. Works whether or not the
/// service runs. A callback that is being sent cannot be cancelled; try again when its attempt
/// has ended. `replay-failed` makes a cancelled callback pending again.
///
/// Examples:
///   seal-dpf-urlcallback cancel --id 06h1kuqc7g0003796ovvvcapps
///   seal-dpf-urlcallback cancel --destination http://callbackhost:8080 --until 2h --dry-run
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    which: ActionArgs,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Exit> {
    if args.which.only_ids() && !args.which.dry_run {
        return each(config, args.which.id).await;
    }
    action::run::<CancelView>(config, "cancel", Action::Cancel, args.which).await
}

/// Cancels these callbacks one by one and reports the result of each.
async fn each(config: &Config, ids: Vec<CallbackId>) -> anyhow::Result<Exit> {
    let access = Access::find(config, "cancel", Purpose::Change).await?;
    let (mut exit, mut results) = (Exit::Done, Results::default());
    for id in ids {
        match access.cancel(id).await {
            Ok(()) => results.print(format_args!("cancelled {id}")),
            Err(error) => {
                say(format_args!("error: {error:#}"));
                exit = Exit::Failed;
            }
        }
    }
    results.end()?;
    Ok(exit)
}
