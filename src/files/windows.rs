//! Access rights and folders of Windows.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// The folder for the data of all users, for SEAL Systems.
pub fn shared_folder() -> PathBuf {
    let all_users = std::env::var_os("ProgramData").unwrap_or_else(|| r"C:\ProgramData".into());
    Path::new(&all_users).join("SEAL Systems")
}

/// Who has all rights on what is closed, as identifiers that are the same in every language: the owner, SYSTEM
/// and the administrators.
const INSIDERS: [&str; 3] = ["*S-1-3-4", "*S-1-5-18", "*S-1-5-32-544"];

/// Takes the rights on a file or folder from everyone but its owner, SYSTEM and the administrators. What is
/// in the folder, or is made there, inherits these rights.
pub fn close_to_others(path: &Path) -> io::Result<()> {
    let mut command = icacls(path);
    command.arg("/inheritance:r").arg("/grant:r");
    let what = if path.is_dir() { "(OI)(CI)F" } else { "F" };
    command.args(INSIDERS.map(|who| format!("{who}:{what}")));
    run(&mut command)
}

/// Makes the administrators the owner of a folder and of everything in it, and takes all rights on what is in it
/// but those of the folder: another user may have made it before.
pub fn take_over(folder: &Path) -> io::Result<()> {
    run(icacls(folder).args(["/setowner", "*S-1-5-32-544", "/T", "/C", "/L"]))?;
    close_to_others(folder)?;
    if folder.read_dir()?.next().is_some() {
        run(icacls(&folder.join("*")).args(["/reset", "/T", "/C", "/L"]))?;
    }
    Ok(())
}

fn icacls(path: &Path) -> Command {
    // By its path, so that no program of this name in another folder is found.
    let system = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
    let mut command = Command::new(Path::new(&system).join(r"System32\icacls.exe"));
    command.arg(path).arg("/Q");
    command
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(io::Error::other(format!("icacls: {}", said.trim())))
}
