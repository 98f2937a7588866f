//! `serve`: the long-running service.

use std::time::Duration;

use super::{
    output::{Exit, say, say_warnings},
    runtime::runtime,
};
use crate::{
    config::{Config, ConfigError},
    service::{self, Observer, Requests, Started},
};

pub(super) fn run(
    config: Config,
    again: &(dyn Fn() -> Result<Config, ConfigError> + Sync),
) -> anyhow::Result<Exit> {
    let announcement = Announcement {
        data_dir: config.data_dir.display().to_string(),
        elsewhere: config.outbox.elsewhere(),
    };
    say_warnings(&config);
    to_its_end(config, again, None, &announcement)?;
    Ok(Exit::Done)
}

/// Runs the service. The lock is released when everything that shares the store is dropped.
pub(super) fn to_its_end(
    config: Config,
    again: &(dyn Fn() -> Result<Config, ConfigError> + Sync),
    requests: Requests,
    observer: &dyn Observer,
) -> anyhow::Result<()> {
    let runtime = runtime(true)?;
    let lock = runtime.block_on(service::serve(config, again, requests, observer))?;
    drop(runtime);
    drop(lock);
    Ok(())
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

    // It is in the log.
    fn stopping(&self, _: Duration) {}

    fn exits(&self) {}
}
