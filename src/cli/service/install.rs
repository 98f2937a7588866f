//! Installing the service and removing it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use windows_service::{
    service::{
        Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl,
        ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo, ServiceStartType,
        ServiceType,
    },
    service_manager::{ServiceManager, ServiceManagerAccess},
};

use super::{
    control, event_log,
    scm::{NAME, code, explained, open_manager},
};
use crate::{
    cli::output::{Exit, print, say, say_warnings},
    config::{self, Config},
    files,
    service::supervised::Pace,
};

/// The settings of a new installation.
const SETTINGS: &str = include_str!("../../../packaging/windows/config.toml");

/// Time for closing connections and the store at a shutdown, in addition to the grace period and the margin.
const CLOSING: Duration = Duration::from_secs(10);

pub(super) fn install(config: Option<&Path>) -> anyhow::Result<Exit> {
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = open_manager(access)?;
    let file = match config {
        Some(file) => std::path::absolute(file)?,
        None => place_settings()?,
    };
    let config = Config::load(Some(&file))?;
    say_warnings(&config);
    let log = files::shared_folder().join("log");
    fs::create_dir_all(&log).with_context(|| format!("cannot create {}", log.display()))?;
    event_log::register().context("cannot register the source of events")?;
    let service = create(&manager, &file).map_err(|error| explained(error, "install"))?;
    configure(&service, &config).map_err(|error| explained(error, "configure"))?;
    print(format_args!("installed, with the settings in {}", file.display()))?;
    Ok(Exit::Done)
}

/// Creates the folder for settings and data, and the settings file. The folder is made private even if it
/// exists, because its content determines what the service does.
fn place_settings() -> anyhow::Result<PathBuf> {
    let folder = config::common_folder();
    let place = || {
        files::create_private_folders(&folder)?;
        files::take_over(&folder)?;
        let file = folder.join(config::DEFAULT_FILE);
        if !file.try_exists()? {
            files::replace(&file, &settings())?;
        }
        Ok(file)
    };
    place().map_err(|error: std::io::Error| {
        anyhow::anyhow!("cannot prepare {}: {error}", folder.display())
    })
}

/// The settings, with the folder of this system.
fn settings() -> String {
    let folder = files::shared_folder();
    SETTINGS.replace(r"C:\ProgramData\SEAL Systems", &folder.to_string_lossy())
}

fn create(manager: &ServiceManager, file: &Path) -> windows_service::Result<Service> {
    const SERVICE_EXISTS: i32 = 1073;
    let executable_path = std::env::current_exe().map_err(windows_service::Error::Winapi)?;
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: "SEAL Systems DPF URL callback".into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path,
        launch_arguments: vec!["--config".into(), file.into(), "service".into(), "run".into()],
        dependencies: Vec::new(),
        account_name: None,
        account_password: None,
    };
    // START is required to set actions that restart the service.
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::START;
    match manager.create_service(&info, access) {
        Err(error) if code(&error) == Some(SERVICE_EXISTS) => {
            let service = manager.open_service(NAME, access)?;
            service.change_config(&info)?;
            Ok(service)
        }
        created => created,
    }
}

fn configure(service: &Service, config: &Config) -> windows_service::Result<()> {
    let text = "Sends the callbacks that the submitters of DPF jobs have requested";
    optional("a description", service.set_description(text))?;
    // After the services that the network needs.
    optional("a delayed start", service.set_delayed_auto_start(true))?;
    let restart = |delay| ServiceAction { action_type: ServiceActionType::Restart, delay };
    let recovery = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_hours(1)),
        reboot_msg: None,
        command: None,
        // Windows repeats the last action.
        actions: Some([5, 5, 60].map(|seconds| restart(Duration::from_secs(seconds))).into()),
    };
    optional("a restart after a failure", service.update_failure_actions(recovery))?;
    // Also restart if the service reports an error, and not only if its process crashes.
    let also_errors = service.set_failure_actions_on_non_crash_failures(true);
    optional("a restart after an error", also_errors)?;
    let grace = config.dispatcher.shutdown_grace;
    let closing = grace.saturating_add(Pace::default().margin).saturating_add(CLOSING);
    optional("a time for the shutdown", service.set_preshutdown_timeout(closing))
}

/// Warns about a feature that this system does not support. The service works without it.
fn optional(what: &str, done: windows_service::Result<()>) -> windows_service::Result<()> {
    const INVALID_LEVEL: i32 = 124;
    match done {
        Err(error) if code(&error) == Some(INVALID_LEVEL) => {
            say(format_args!("warning: this system does not support {what} of services"));
            Ok(())
        }
        done => done,
    }
}

pub(super) fn uninstall() -> anyhow::Result<Exit> {
    let manager = open_manager(ServiceManagerAccess::CONNECT)?;
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE;
    let service = manager.open_service(NAME, access).map_err(|error| explained(error, "remove"))?;
    control::stop_if_running(&service)?;
    service.delete().map_err(|error| explained(error, "remove"))?;
    event_log::forget().context("cannot remove the source of events")?;
    print("removed; settings, data and log are kept")?;
    Ok(Exit::Done)
}
