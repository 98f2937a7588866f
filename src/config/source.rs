//! The settings file. The defaults apply only if no file with the default name exists; one that cannot
//! be read is an error, so that egress rules and signing secrets are never dropped silently.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use figment::{
    Metadata, Profile, Provider, Source,
    providers::{Data, Format as _, Toml},
    value::{Dict, Map},
};

use super::fault::Fault;

/// Prefix of the environment variables.
pub const ENV_PREFIX: &str = "URLCALLBACK__";

/// The settings file without `--config`.
pub const DEFAULT_FILE: &str = "config.toml";

/// The text of a settings file.
pub(super) struct FileText {
    path: PathBuf,
    toml: Data<Toml>,
}

impl Provider for FileText {
    fn metadata(&self) -> Metadata {
        Metadata::from("TOML file", Source::File(self.path.clone()))
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        self.toml.data()
    }
}

/// Reads the file that `--config` names, which may be a pipe such as a shell's `<(…)`.
pub(super) fn named(path: &Path) -> Result<FileText, Fault> {
    let fault = |message: String| Fault { key: "--config".into(), place: None, message };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(fault(format!("{} is a folder", path.display()))),
        Ok(_) => read(path).map_err(|error| fault(cannot_read(path, &error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            Err(fault(format!("there is no file {}", path.display())))
        }
        Err(error) => Err(fault(cannot_read(path, &error))),
    }
}

/// The data directory of the defaults.
pub(super) fn default_data_dir() -> String {
    #[cfg(windows)]
    return common_folder().join("data").to_string_lossy().into_owned();
    #[cfg(not(windows))]
    "data".into()
}

/// The folder for settings and data that do not depend on the working directory.
#[cfg(windows)]
pub fn common_folder() -> PathBuf {
    crate::files::shared_folder().join("urlcallback")
}

/// Reads the file that applies without `--config`, if there is one: in the working directory, and on Windows then
/// in the folder of all users.
pub(super) fn default_file() -> Result<Option<FileText>, Fault> {
    let here = default(Path::new(DEFAULT_FILE))?;
    #[cfg(windows)]
    let here = match here {
        None => default(&common_folder().join(DEFAULT_FILE))?,
        found => found,
    };
    Ok(here)
}

/// Reads a default file; `None` if it does not exist.
fn default(path: &Path) -> Result<Option<FileText>, Fault> {
    let fault = |message: String| Fault { key: path.display().to_string(), place: None, message };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(cannot_read(path, &error))),
        Ok(_) => {}
    }
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {
            read(path).map(Some).map_err(|error| fault(cannot_read(path, &error)))
        }
        // Reading a pipe without a writer would block for ever.
        Ok(_) => Err(fault(
            "is not a regular file; remove it, or name another file with --config".into(),
        )),
        Err(error) => Err(fault(cannot_read(path, &error))),
    }
}

fn read(path: &Path) -> io::Result<FileText> {
    let text = fs::read_to_string(path)?;
    Ok(FileText { path: path.to_owned(), toml: Toml::string(&text) })
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    let what = if path.is_symlink() { "the symbolic link " } else { "" };
    format!("{what}{} cannot be read: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_file_that_cannot_be_reached_is_a_fault_and_a_missing_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert!(default(&folder.path().join("config.toml")).unwrap().is_none());
        // There is a file in place of the folder.
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let path = file.join("config.toml");
        let fault = default(&path).map(drop).unwrap_err();
        assert_eq!(fault.key, path.display().to_string());
        assert!(fault.message.contains("cannot be read"), "{}", fault.message);
    }
}
