//! `ui`: the operator's page.

use std::io::IsTerminal as _;

use anyhow::Context as _;

use super::{
    access,
    output::{Exit, print},
};
use crate::config::Config;

/// Print the address of the operator's page; on a terminal, open it in the browser, signed in
///
/// The browser gets a link that works once and for one minute, so that no token must be copied. Its secret is
/// behind the `#`, which browsers do not send. The exit code is 3 if the service does not run.
///
/// Example: seal-dpf-urlcallback ui
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print a link that signs in, and open no browser
    #[arg(long)]
    link: bool,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let Some(service) = access::listening(config)? else { return Ok(Exit::NotRunning) };
    let base = service.base();
    if args.link {
        print(format_args!("{base}{}", service.sign_in().await?))?;
        return Ok(Exit::Done);
    }
    print(format_args!("{base}/ui/"))?;
    if std::io::stdout().is_terminal() {
        let link = format!("{base}{}", service.sign_in().await?);
        open::that_detached(link).context(
            "no browser can be opened; `ui --link` prints a link that signs in, or use the API's token as the password",
        )?;
    }
    Ok(Exit::Done)
}
