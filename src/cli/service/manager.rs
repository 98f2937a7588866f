//! The entry point for the service manager. Which states are reported, and when, is in [`supervised`].

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context as _, anyhow};
use windows_service::{
    define_windows_service,
    service::{
        ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus,
        ServiceType,
    },
    service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle},
    service_dispatcher,
};

use super::{
    event_log,
    scm::{NAME, RELOAD, code},
};
use crate::{
    cli::{
        output::{Exit, Usage, exit_of},
        serve::to_its_end,
    },
    config::Config,
    service::{
        Observer, Requests,
        supervised::{self, Control, Controls, Manager, Pace, State, Status},
    },
};

/// The settings file, for the function that the service manager calls.
static CONFIG: OnceLock<Option<PathBuf>> = OnceLock::new();

define_windows_service!(entry, main);

/// Runs the service until the service manager stops it.
pub(super) fn run(config: Option<PathBuf>) -> anyhow::Result<Exit> {
    const NOT_STARTED_BY_THE_MANAGER: i32 = 1063;
    event_log::report_panics();
    // It is not set elsewhere.
    CONFIG.set(config).ok();
    match service_dispatcher::start(NAME, entry) {
        Ok(()) => Ok(Exit::Done),
        Err(error) if code(&error) == Some(NOT_STARTED_BY_THE_MANAGER) => Err(Usage(
            "`service run` is for the service manager: use `service start`, or `serve` in a console"
                .into(),
        )
        .into()),
        Err(error) => Err(anyhow!(error).context("cannot reach the service manager")),
    }
}

fn main(_: Vec<OsString>) {
    if let Err(error) = under_manager() {
        event_log::error(&format!("the service manager cannot be reached: {error}"));
    }
}

fn under_manager() -> windows_service::Result<()> {
    let (handler, controls) = Controls::new();
    let handle = service_control_handler::register(NAME, move |control| {
        handler.control(match control {
            ServiceControl::Stop => Control::Stop,
            ServiceControl::Preshutdown => Control::PreShutdown,
            ServiceControl::Shutdown => Control::Shutdown,
            ServiceControl::ParamChange => Control::Reload,
            ServiceControl::UserEvent(code) if code.to_raw() == RELOAD => Control::Reload,
            ServiceControl::Interrogate => return ServiceControlHandlerResult::NoError,
            _ => return ServiceControlHandlerResult::NotImplemented,
        });
        ServiceControlHandlerResult::NoError
    })?;
    supervised::supervise(
        &Scm(handle),
        controls,
        Pace::default(),
        |requests, observer| match serve(requests, observer) {
            Ok(()) => 0,
            Err(error) => {
                event_log::error(&format!("{NAME} has ended: {error:#}"));
                exit_of(&error) as u32
            }
        },
    );
    Ok(())
}

fn serve(requests: Requests, observer: &dyn Observer) -> anyhow::Result<()> {
    let file = CONFIG.get().and_then(Option::as_deref);
    // Relative paths in the settings are relative to their file: the initial working directory is that of the
    // system.
    if let Some(folder) = file.and_then(Path::parent) {
        std::env::set_current_dir(folder)
            .with_context(|| format!("cannot enter {}", folder.display()))?;
    }
    let config = Config::load(file)?;
    to_its_end(config, &|| Config::load_again(file), requests, observer)
}

/// The service manager of Windows.
struct Scm(ServiceStatusHandle);

impl Manager for Scm {
    fn report(&self, Status { state, checkpoint, wait_hint }: Status) -> io::Result<()> {
        let accepted = ServiceControlAccept::STOP | ServiceControlAccept::PRESHUTDOWN;
        let (current_state, controls_accepted, code) = match state {
            State::StartPending => (ServiceState::StartPending, accepted, 0),
            State::Running => {
                (ServiceState::Running, accepted | ServiceControlAccept::PARAM_CHANGE, 0)
            }
            State::StopPending => (ServiceState::StopPending, ServiceControlAccept::empty(), 0),
            State::Stopped(code) => (ServiceState::Stopped, ServiceControlAccept::empty(), code),
        };
        let exit_code = match code {
            0 => ServiceExitCode::NO_ERROR,
            code => ServiceExitCode::ServiceSpecific(code),
        };
        let status = ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state,
            controls_accepted,
            exit_code,
            checkpoint,
            wait_hint,
            process_id: None,
        };
        self.0.set_service_status(status).map_err(io::Error::other)
    }

    fn give_up(&self) {
        event_log::error(&format!("{NAME} did not stop in time and was ended; nothing is lost"));
        std::process::exit(1);
    }
}
