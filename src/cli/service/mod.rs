//! `service`: the service of Windows. `manager` runs it, `install` and `control` are what an administrator does
//! with it.

mod control;
mod event_log;
mod install;
mod manager;
mod scm;

use std::path::PathBuf;

use clap::Subcommand;

use super::output::Exit;

/// Install, remove, start or stop the service of Windows
///
/// All of them need an administrator. `sc query seal-dpf-urlcallback` shows the state of the service.
///
/// Example: seal-dpf-urlcallback service install
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the service, or update how it is installed
    ///
    /// It starts with the system, and again after a failure. Without --config, its settings are in
    /// C:\ProgramData\SEAL Systems\urlcallback\config.toml, which is created if it does not exist. Others
    /// than administrators get no access to that folder.
    Install,
    /// Stop the service and remove it; settings, data and log are kept
    Uninstall,
    /// Start the service and wait until it accepts events
    Start,
    /// Stop the service and wait until it has stopped
    Stop,
    /// Have the service open its log file again and read its settings again
    ///
    /// `sc control seal-dpf-urlcallback paramchange` does the same.
    Reload,
    /// What the service manager starts
    #[command(hide = true)]
    Run,
}

pub(super) fn run(args: &Args, config: Option<PathBuf>) -> anyhow::Result<Exit> {
    match args.command {
        Command::Install => install::install(config.as_deref()),
        Command::Uninstall => install::uninstall(),
        Command::Start => control::start(),
        Command::Stop => control::stop(),
        Command::Reload => control::reload(),
        Command::Run => manager::run(config),
    }
}
