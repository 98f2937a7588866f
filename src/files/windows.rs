//! Access rights and folders of Windows.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// The folder of SEAL Systems for data of all users.
pub fn shared_folder() -> PathBuf {
    let all_users = std::env::var_os("ProgramData").unwrap_or_else(|| r"C:\ProgramData".into());
    Path::new(&all_users).join("SEAL Systems")
}

/// The accounts with full access to private files and folders: the owner, SYSTEM and the administrators.
/// Their identifiers are the same in every language.
const INSIDERS: [&str; 3] = ["*S-1-3-4", "*S-1-5-18", "*S-1-5-32-544"];

/// Restricts a file or folder to its owner, SYSTEM and the administrators. Everything in the folder,
/// including what is created later, inherits these rights.
pub fn close_to_others(path: &Path) -> io::Result<()> {
    let mut command = icacls(path);
    command.arg("/inheritance:r").arg("/grant:r");
    let what = if path.is_dir() { "(OI)(CI)F" } else { "F" };
    command.args(INSIDERS.map(|who| format!("{who}:{what}")));
    run(&mut command)
}

/// Makes the administrators the owner of a folder and of everything in it, and resets the rights on its
/// content to those of the folder, because another user may have created it.
pub fn take_over(folder: &Path) -> io::Result<()> {
    run(icacls(folder).args(["/setowner", "*S-1-5-32-544", "/T", "/C", "/L"]))?;
    // Rights that were granted to that user explicitly are not inherited, and remain until they are reset.
    run(icacls(folder).arg("/reset"))?;
    close_to_others(folder)?;
    if folder.read_dir()?.next().is_some() {
        run(icacls(&folder.join("*")).args(["/reset", "/T", "/C", "/L"]))?;
    }
    Ok(())
}

fn icacls(path: &Path) -> Command {
    // The full path, so that no program with this name in another folder is started.
    let system = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
    let mut command = Command::new(Path::new(&system).join(r"System32\icacls.exe"));
    command.arg(verbatim(path)).arg("/Q");
    command
}

/// Converts a path that is too long for programs that do not support long paths to a form that they accept.
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
    fn paths_longer_than_260_characters_work() {
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
    fn a_long_path_is_converted_to_a_form_for_every_program() {
        let name = "x".repeat(300);
        assert_eq!(verbatim(Path::new(r"C:\short")), Path::new(r"C:\short"));
        let long = |before: &str| PathBuf::from(format!("{before}{name}"));
        assert_eq!(verbatim(&long(r"C:\")), long(r"\\?\C:\"));
        assert_eq!(verbatim(&long(r"\\server\share\")), long(r"\\?\UNC\server\share\"));
        assert_eq!(verbatim(&long(r"\\?\C:\")), long(r"\\?\C:\"));
    }
}
