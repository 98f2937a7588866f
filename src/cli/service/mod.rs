//! `service`: the service of Windows. `manager` runs it; `install` and `control` are the administrator's
//! commands.

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
/// These commands require administrator rights. `sc query seal-dpf-urlcallback` shows the state of the
/// service.
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
    /// Make the service reopen its log file and reload its settings
    ///
    /// `sc control seal-dpf-urlcallback paramchange` does the same.
    Reload,
    /// Started by the service manager
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
