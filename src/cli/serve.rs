//! `serve`: the long-running service.

use super::output::{Exit, say, say_warnings};
use crate::{
    config::{Config, ConfigError},
    service,
};

pub(super) async fn run(
    config: Config,
    again: &(dyn Fn() -> Result<Config, ConfigError> + Sync),
) -> anyhow::Result<Exit> {
    let data_dir = config.data_dir.display().to_string();
    let elsewhere = config.outbox.elsewhere();
    say_warnings(&config);
    service::serve(config, again, |note, log| {
        say(format_args!("listening on {}", note.base(note.address)));
        say(format_args!("page at {}/ui/", note.base(note.address)));
        say(format_args!("data in {data_dir}"));
        if let Some(place) = elsewhere {
            say(format_args!("callbacks in {place}"));
        }
        if let Some(path) = &log.path {
            say(format_args!("log in {}", path.display()));
        }
    })
    .await?;
    Ok(Exit::Done)
}
