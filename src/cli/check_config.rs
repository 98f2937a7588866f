//! `check-config`: prints the settings in effect, and what the database and NATS are like.

use super::output::{Exit, Usage, print, say_warnings};
use crate::{config::Config, sources::nats};

/// Check the settings and print those in effect
///
/// Reports every error with its key; the exit code is then 2. Secrets are shown as "***".
///
/// Example: seal-dpf-urlcallback --config /etc/urlcallback.toml check-config
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print what is in effect for this callback URL: the section of `destinations` that applies, and the
    /// values
    #[arg(long, value_name = "URL")]
    explain: Option<String>,
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    say_warnings(config);
    if let Some(url) = &args.explain {
        return explain(config, url);
    }
    for setting in &config.effective {
        let place = setting.place.as_deref().map(|it| format!("  # {it}")).unwrap_or_default();
        match &setting.value {
            Some(value) => print(format_args!("{} = {value}{place}", setting.key))?,
            None => print(format_args!("# {} is not set", setting.key))?,
        }
    }
    for line in config.outbox.examine()? {
        print(format_args!("# database: {line}"))?;
    }
    Ok(())
}

/// The second part, which waits for a server.
pub(super) async fn nats(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    if args.explain.is_none()
        && let Some(settings) = &config.nats
    {
        for line in nats::examine(settings).await? {
            print(format_args!("# nats: {line}"))?;
        }
    }
    Ok(Exit::Done)
}

fn explain(config: &Config, url: &str) -> anyhow::Result<()> {
    let explained = config.explain(url).map_err(|error| Usage(error.to_string()))?;
    print(format_args!("# destination: {}", explained.destination))?;
    match &explained.section {
        Some(section) => print(format_args!("# section: {section}"))?,
        None => print("# section: none of `destinations` applies")?,
    }
    if let Some(denied) = explained.denied {
        print(format_args!("# never called: {denied}"))?;
    }
    for it in explained.values {
        let from = it.from.map(|from| format!("  # {from}")).unwrap_or_default();
        match it.value {
            Some(value) => print(format_args!("{} = {value}{from}", it.key))?,
            None => print(format_args!("# {} is not set", it.key))?,
        }
    }
    Ok(())
}
