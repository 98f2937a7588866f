//! `check-config`: prints the settings in effect, and what the database and NATS are like.

use super::output::{Exit, print, say_warnings};
use crate::{config::Config, sources::nats};

pub(super) fn run(config: &Config) -> anyhow::Result<()> {
    say_warnings(config);
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
pub(super) async fn nats(config: &Config) -> anyhow::Result<Exit> {
    if let Some(settings) = &config.nats {
        for line in nats::examine(settings).await? {
            print(format_args!("# nats: {line}"))?;
        }
    }
    Ok(Exit::Done)
}
