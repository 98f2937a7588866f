//! `service`: the service of Windows. `manager` runs it, `install` and `control` are what an administrator does
//! with it.

mod control;
mod event_log;
mod install;
mod manager;

use std::path::PathBuf;

use clap::Subcommand;
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

use super::output::Exit;

/// The name of the service, and the source of its events in the Event Log.
const NAME: &str = env!("CARGO_PKG_NAME");

/// Install, remove, start or stop the service of Windows
///
/// All of them need an administrator. `sc query seal-dpf-urlcallback` shows the state of the service, and
/// `sc control seal-dpf-urlcallback paramchange` opens its log file again and has it read its settings again.
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
        Command::Run => manager::run(config),
    }
}

/// The service manager of this machine.
fn open_manager(access: ServiceManagerAccess) -> anyhow::Result<ServiceManager> {
    ServiceManager::local_computer(None::<&str>, access).map_err(|error| explained(error, "open"))
}

/// The error of a call of the service manager.
fn explained(error: windows_service::Error, what: &str) -> anyhow::Error {
    const ACCESS_DENIED: i32 = 5;
    const SERVICE_DOES_NOT_EXIST: i32 = 1060;
    const SERVICE_MARKED_FOR_DELETE: i32 = 1072;
    match code(&error) {
        Some(ACCESS_DENIED) => {
            anyhow::anyhow!(
                "cannot {what} the service: access denied; run this as an administrator"
            )
        }
        Some(SERVICE_DOES_NOT_EXIST) => {
            anyhow::anyhow!("the service {NAME} is not installed; `service install` does it")
        }
        Some(SERVICE_MARKED_FOR_DELETE) => anyhow::anyhow!(
            "the service {NAME} is being removed: close what shows it, such as services.msc, and try again"
        ),
        _ => anyhow::Error::new(error).context(format!("cannot {what} the service")),
    }
}

/// The code of the system in an error.
fn code(error: &windows_service::Error) -> Option<i32> {
    match error {
        windows_service::Error::Winapi(error) => error.raw_os_error(),
        _ => None,
    }
}
