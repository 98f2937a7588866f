//! The real binary.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

/// The binary, without the service's variables of the environment.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seal-dpf-urlcallback"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("URLCALLBACK__") || name == "LOG_LEVEL" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    binary().args(args).output().unwrap()
}

/// Runs a command in a folder to its end.
pub(crate) fn run_in(folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = binary();
    // The default elsewhere.
    command.envs(cfg!(windows).then_some(("URLCALLBACK__DATA_DIR", "data")));
    to_its_end(command.args(args).current_dir(folder).env("ProgramData", folder), input)
}

pub(super) fn to_its_end(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A command that does not read its input closes it.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}
