//! `cancel`: ends pending callbacks.

use super::{
    access::{Access, Purpose},
    output::{Exit, say},
    results::Results,
};
use crate::{callback::CallbackId, config::Config};

/// End pending callbacks; they become failed with the reason `cancelled`
///
/// Works whether or not the service runs. One whose attempt is under way is left alone; ask
/// again when the attempt has ended. `replay-failed` brings a cancelled one back.
///
/// Example: seal-dpf-urlcallback cancel --id 0000000000001ejm1n07i3ceqc
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which one, as often as needed
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
