//! Signals to a process, and their equivalents on Windows.

use std::{path::Path, process::Child};

/// Sends a signal.
#[cfg(not(windows))]
pub(super) fn send(signal: &str, process: &Child, _: &Path) {
    let pid = process.id().to_string();
    let status = std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status();
    assert!(status.unwrap().success());
}

/// Sends Ctrl-C to the process in this folder, which stops it as SIGTERM and SIGINT do elsewhere. A program
/// outside of Wine does it: `tests/windows/interrupter`.
#[cfg(windows)]
pub(super) fn send(signal: &str, process: &Child, folder: &Path) {
    assert!(["INT", "TERM"].contains(&signal), "there is no {signal} on Windows");
    let requests = std::env::var_os("INTERRUPTER").expect("INTERRUPTER names its folder");
    let name = folder.file_name().unwrap().to_str().unwrap();
    let request = Path::new(&requests).join(format!("{}.request", process.id()));
    let new = request.with_extension("new");
    std::fs::write(&new, name).unwrap();
    std::fs::rename(&new, &request).unwrap();
    super::eventually("Ctrl-C is sent", || (!request.exists()).then_some(()));
}
