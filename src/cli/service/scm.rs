//! The service manager of this machine, and its errors.

use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

/// The name of the service, and the source of its events in the Event Log.
pub(super) const NAME: &str = env!("CARGO_PKG_NAME");

/// The control code of `service reload`, which does the same as `paramchange`. It is the first of the
/// user-defined codes.
pub(super) const RELOAD: u32 = 128;

/// The service manager of this machine.
pub(super) fn open_manager(access: ServiceManagerAccess) -> anyhow::Result<ServiceManager> {
    ServiceManager::local_computer(None::<&str>, access).map_err(|error| explained(error, "open"))
}

/// The error of a call of the service manager.
pub(super) fn explained(error: windows_service::Error, what: &str) -> anyhow::Error {
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
            "the service {NAME} is being removed: close programs that show it, such as services.msc, and try again"
        ),
        _ => anyhow::Error::new(error).context(format!("cannot {what} the service")),
    }
}

/// The system's error code.
pub(super) fn code(error: &windows_service::Error) -> Option<i32> {
    match error {
        windows_service::Error::Winapi(error) => error.raw_os_error(),
        _ => None,
    }
}
