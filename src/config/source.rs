//! The settings file: read once, from whatever has the name, with a clear word where it cannot be.
//! Only where there is none of the default's name, there are no settings: egress rules and signing
//! secrets must not be gone because somebody's link leads nowhere.

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

/// What the names of our environment variables begin with.
pub const ENV_PREFIX: &str = "URLCALLBACK__";

/// The file that is read where `--config` names none.
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

/// Reads the file that was named; a pipe will do, such as a shell's `<(…)`.
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

/// Reads the file that is looked for where none was named; `None` where there is none.
pub(super) fn default(path: &Path) -> Result<Option<FileText>, Fault> {
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
        // To read a pipe that nobody writes to would last for ever.
        Ok(_) => Err(fault(
            "is there and is no file; remove it, or name another one with --config".into(),
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
