//! `serve`: the long-running service.

use std::time::Duration;

use super::output::{say, say_warnings};
use crate::{
    config::{Config, ConfigError},
    datadir::DataDir,
    service::{self, Observer, Started},
};

pub(super) async fn run(
    config: Config,
    again: &(dyn Fn() -> Result<Config, ConfigError> + Sync),
) -> anyhow::Result<DataDir> {
    let announcement = Announcement {
        data_dir: config.data_dir.display().to_string(),
        elsewhere: config.outbox.elsewhere(),
    };
    say_warnings(&config);
    Ok(service::serve(config, again, None, &announcement).await?)
}

/// What is printed at the start.
struct Announcement {
    data_dir: String,
    elsewhere: Option<String>,
}

impl Observer for Announcement {
    fn ready(&self, Started { note, log_file }: &Started<'_>) {
        say(format_args!("listening on {}", note.base(note.address)));
        say(format_args!("page at {}/ui/", note.base(note.address)));
        say(format_args!("data in {}", self.data_dir));
        if let Some(place) = &self.elsewhere {
            say(format_args!("callbacks in {place}"));
        }
        if let Some(path) = log_file {
            say(format_args!("log in {}", path.display()));
        }
    }

    // The log says it.
    fn stopping(&self, _: Duration) {}

    fn exits(&self) {}
}
