//! The Event Log of Windows, for errors before the log can be opened.

use winsafe::{HEVENTLOG, HKEY, RegistryValue, SysResult, co};

use super::scm::NAME;

/// The registry key that defines how events are displayed.
fn key() -> String {
    format!(r"SYSTEM\CurrentControlSet\Services\EventLog\Application\{NAME}")
}

/// Registers how events of the service are displayed.
pub(super) fn register() -> SysResult<()> {
    let (key, _) = HKEY::LOCAL_MACHINE.RegCreateKeyEx(
        &key(),
        None,
        co::REG_OPTION::default(),
        co::KEY::SET_VALUE,
        None,
    )?;
    // The message file of a program of Windows, whose messages 1 to 1000 consist of any text.
    let messages = r"%SystemRoot%\System32\EventCreate.exe";
    key.RegSetValueEx(Some("EventMessageFile"), RegistryValue::ExpandSz(messages.into()))?;
    key.RegSetValueEx(Some("TypesSupported"), RegistryValue::Dword(7))
}

/// Removes the registration.
pub(super) fn forget() -> SysResult<()> {
    match HKEY::LOCAL_MACHINE.RegDeleteTree(Some(&key())) {
        Err(co::ERROR::FILE_NOT_FOUND) => Ok(()),
        done => done,
    }
}

/// Reports an error. A failure to do so is ignored, because there is no other place to report it.
pub(super) fn error(text: &str) {
    const ID: u32 = 1;
    if let Ok(log) = HEVENTLOG::RegisterEventSource(None, NAME) {
        log.ReportEvent(co::EVENTLOG::ERROR_TYPE, 0, ID, None, &[text], &[]).ok();
    }
}

/// Reports panics as well: a service has no standard error.
pub(super) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
}
