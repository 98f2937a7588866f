//! `retry-now`: makes pending callbacks due now.

use super::{
    action::{self, ActionArgs},
    output::Exit,
};
use crate::{api::action_view::RetryNowView, config::Config, select::Action};

/// Make pending callbacks due now, without waiting for their next attempt
///
/// Use it after a receiver has been repaired: callbacks waiting for a retry become due, and the
/// breakers and holds of their destinations end. At least one selector is required. Works whether
/// or not the service runs.
///
/// Examples:
///   seal-dpf-urlcallback retry-now --destination http://callbackhost:8080
///   seal-dpf-urlcallback retry-now --all
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    which: ActionArgs,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Exit> {
    action::run::<RetryNowView>(config, "retry-now", Action::RetryNow, args.which).await
}
