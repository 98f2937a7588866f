//! The Event Log of Windows, for what happens before the log can be opened.

use winsafe::{HEVENTLOG, HKEY, RegistryValue, SysResult, co};

use super::scm::NAME;

/// The key of the registry that says how events are shown.
fn key() -> String {
    format!(r"SYSTEM\CurrentControlSet\Services\EventLog\Application\{NAME}")
}

/// Makes events of the service readable.
pub(super) fn register() -> SysResult<()> {
    let (key, _) = HKEY::LOCAL_MACHINE.RegCreateKeyEx(
        &key(),
        None,
        co::REG_OPTION::default(),
        co::KEY::SET_VALUE,
        None,
    )?;
    // The messages of a program of Windows: those with the numbers 1 to 1000 are any text.
    let messages = r"%SystemRoot%\System32\EventCreate.exe";
    key.RegSetValueEx(Some("EventMessageFile"), RegistryValue::ExpandSz(messages.into()))?;
    key.RegSetValueEx(Some("TypesSupported"), RegistryValue::Dword(7))
}

/// Forgets how events are shown.
pub(super) fn forget() -> SysResult<()> {
    match HKEY::LOCAL_MACHINE.RegDeleteTree(Some(&key())) {
        Err(co::ERROR::FILE_NOT_FOUND) => Ok(()),
        done => done,
    }
}

/// Reports an error. Nothing is left to report that this has failed.
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
