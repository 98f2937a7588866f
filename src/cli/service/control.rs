//! Starting and stopping the service.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use windows_service::{
    service::{Service, ServiceAccess, ServiceState, ServiceStatus, UserEventCode},
    service_manager::ServiceManagerAccess,
};

use super::scm::{NAME, RELOAD, code, explained, open_manager};
use crate::cli::output::{Exit, print, say};

/// Interval at which the state is polled.
const PAUSE: Duration = Duration::from_millis(200);

/// Minimum time allowed for a checkpoint.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn start() -> anyhow::Result<Exit> {
    const ALREADY_RUNNING: i32 = 1056;
    let service = open(ServiceAccess::START)?;
    match service.start::<&str>(&[]) {
        Err(error) if code(&error) == Some(ALREADY_RUNNING) => {}
        started => started.map_err(|error| explained(error, "start"))?,
    }
    let status = wait_while(&service, ServiceState::StartPending)?;
    if status.current_state != ServiceState::Running {
        bail!(
            "the service does not run: {:?}, {:?}; see its log and the Event Log (Application) for the reason",
            status.current_state,
            status.exit_code
        );
    }
    print("running")?;
    Ok(Exit::Done)
}

pub(super) fn stop() -> anyhow::Result<Exit> {
    let service = open(ServiceAccess::STOP)?;
    if stop_if_running(&service)? {
        print("stopped")?;
        return Ok(Exit::Done);
    }
    say("the service does not run");
    Ok(Exit::NotRunning)
}

pub(super) fn reload() -> anyhow::Result<Exit> {
    const NOT_ACTIVE: i32 = 1062;
    let service = open(ServiceAccess::USER_DEFINED_CONTROL)?;
    let control = UserEventCode::from_raw(RELOAD).context("no valid control")?;
    match service.notify(control) {
        Err(error) if code(&error) == Some(NOT_ACTIVE) => {
            say("the service does not run");
            Ok(Exit::NotRunning)
        }
        Err(error) => Err(explained(error, "reload")),
        Ok(_) => {
            print("requested; see the log for what has changed")?;
            Ok(Exit::Done)
        }
    }
}

/// Stops the service and waits for its end; returns whether it ran.
pub(super) fn stop_if_running(service: &Service) -> anyhow::Result<bool> {
    const NOT_ACTIVE: i32 = 1062;
    // It is stopping already.
    const CANNOT_ACCEPT: i32 = 1061;
    match service.stop() {
        Err(error) if code(&error) == Some(NOT_ACTIVE) => return Ok(false),
        Err(error) if code(&error) == Some(CANNOT_ACCEPT) => {}
        stopping => drop(stopping.map_err(|error| explained(error, "stop"))?),
    }
    let status = wait_while(service, ServiceState::StopPending)?;
    if status.current_state != ServiceState::Stopped {
        bail!("the service does not stop: {:?}", status.current_state);
    }
    Ok(true)
}

fn open(access: ServiceAccess) -> anyhow::Result<Service> {
    open_manager(ServiceManagerAccess::CONNECT)?
        .open_service(NAME, access | ServiceAccess::QUERY_STATUS)
        .map_err(|error| explained(error, "open"))
}

/// Waits for the end of a pending state, as long as checkpoints advance.
fn wait_while(service: &Service, state: ServiceState) -> anyhow::Result<ServiceStatus> {
    let mut checkpoint = None;
    let mut give_up = Instant::now() + PATIENCE;
    loop {
        let status = service.query_status().map_err(|error| explained(error, "query"))?;
        if status.current_state != state {
            return Ok(status);
        }
        if checkpoint.replace(status.checkpoint) != Some(status.checkpoint) {
            give_up = Instant::now() + PATIENCE.max(status.wait_hint);
        }
        if Instant::now() > give_up {
            bail!("the service hangs in the state {state:?}");
        }
        thread::sleep(PAUSE);
    }
}
