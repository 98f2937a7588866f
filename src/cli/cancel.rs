//! `cancel`: ends pending callbacks.

use super::{
    access::{Access, Purpose},
    output::{Exit, say},
    results::Results,
};
use crate::{callback::CallbackId, config::Config};

/// Cancel pending callbacks; they become failed with the error kind `cancelled`
///
/// Works whether or not the service runs. A callback that is being sent cannot be cancelled; try again
/// when its attempt has ended. `replay-failed` makes a cancelled callback pending again.
///
/// Example: seal-dpf-urlcallback cancel --id 0000000000001ejm1n07i3ceqc
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Id of the callback; can be given more than once
    #[arg(long, required = true)]
    id: Vec<CallbackId>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Exit> {
    let access = Access::find(config, "cancel", Purpose::Change).await?;
    let (mut exit, mut results) = (Exit::Done, Results::default());
    for id in args.id {
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
