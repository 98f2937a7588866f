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
    // What was granted to that user is not inherited, and stays until it is reset.
    run(icacls(folder).arg("/reset"))?;
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
    command.arg(verbatim(path)).arg("/Q");
    command
}

/// A path that is too long for programs which do not expect such paths, in the form that they can use.
fn verbatim(path: &Path) -> PathBuf {
    const SHORT: usize = 240;
    let Ok(path) = std::path::absolute(path) else { return path.to_owned() };
    let text = path.to_string_lossy().into_owned();
    match text.strip_prefix(r"\\") {
        _ if text.len() < SHORT || text.starts_with(r"\\?\") => path,
        Some(share) => format!(r"\\?\UNC\{share}").into(),
        None => format!(r"\\?\{text}").into(),
    }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files;

    #[test]
    fn paths_may_be_longer_than_260_characters() {
        let folder = tempfile::tempdir().unwrap();
        let deep =
            [&*"x".repeat(100); 4].iter().fold(folder.path().to_owned(), |it, name| it.join(name));
        files::create_private_folders(&deep).unwrap();
        let (file, other) = (deep.join("file"), deep.join("other"));
        files::replace_secret(&file, "text").unwrap();
        files::replace_secret(&file, "newer").unwrap();
        files::rename(&file, &other).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "newer");
        files::wait_until_readable(&other).unwrap();
        files::remove_folder(&folder.path().join("x".repeat(100))).unwrap();
    }

    #[test]
    fn a_long_path_is_in_the_form_that_every_program_can_use() {
        let name = "x".repeat(300);
        assert_eq!(verbatim(Path::new(r"C:\short")), Path::new(r"C:\short"));
        let long = |before: &str| PathBuf::from(format!("{before}{name}"));
        assert_eq!(verbatim(&long(r"C:\")), long(r"\\?\C:\"));
        assert_eq!(verbatim(&long(r"\\server\share\")), long(r"\\?\UNC\server\share\"));
        assert_eq!(verbatim(&long(r"\\?\C:\")), long(r"\\?\C:\"));
    }
}
