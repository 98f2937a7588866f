//! Settings that name files: certificates, keys, tokens and passwords. The files are read when the
//! settings are loaded, so that a wrong path is an error of its key and not of the first callback.

use std::path::{Path, PathBuf};

use super::{reader::Reader, values::hash};
use crate::{
    datadir,
    tls::{self, PairFiles, TlsError, read_regular_bytes},
};

/// Certificates of authorities.
pub(super) fn ca_file(r: &mut Reader, key: &'static str) -> Option<PathBuf> {
    let file = PathBuf::from(r.text(key)?);
    r.hide(key, hash(&content(&file)));
    match tls::authorities(&file) {
        Ok(found) => tls::uncheckable(&found).into_iter().for_each(|what| r.warn(key, what)),
        Err(error) => r.fault(key, error.to_string()),
    }
    Some(file)
}

/// A certificate and its key. Both are required, or neither.
pub(super) fn pair(
    r: &mut Reader,
    certificates: &'static str,
    key: &'static str,
) -> Option<PairFiles> {
    let files = (r.text(certificates), r.text(key));
    let pair = match files {
        (None, None) => return None,
        (Some(certificates), Some(key)) => {
            PairFiles { certificates: certificates.into(), key: key.into() }
        }
        (Some(_), None) => {
            r.fault(certificates, format!("also requires {key}"));
            return None;
        }
        (None, Some(_)) => {
            r.fault(key, format!("also requires {certificates}"));
            return None;
        }
    };
    r.hide(certificates, hash(&content(&pair.certificates)));
    r.hide(key, hash(&content(&pair.key)));
    match pair.read() {
        Ok(_) => warn_if_open(r, key, &pair.key),
        Err(error @ TlsError::Key { .. }) => r.fault(key, error.to_string()),
        Err(error) => r.fault(certificates, error.to_string()),
    }
    Some(pair)
}

/// `api.read_token_file`. It is never created, so it must exist.
pub(super) fn read_token(r: &mut Reader, token_file: &Path) -> Option<PathBuf> {
    const KEY: &str = "api.read_token_file";
    let file = PathBuf::from(r.text(KEY)?);
    // The operator's token is created by the service, and users of other commands may not be able to read it.
    let operator = datadir::read_token(token_file).ok();
    match datadir::read_only_token(&file, operator.as_deref()) {
        Ok(_) => warn_if_open(r, KEY, &file),
        Err(error) => r.fault(KEY, error.to_string()),
    }
    Some(file)
}

/// The content of a file, if it can be read.
fn content(file: &Path) -> Option<Vec<u8>> {
    read_regular_bytes(file).ok()
}

/// A file with a secret, which `read` checks.
pub(super) fn secret<E: std::fmt::Display>(
    r: &mut Reader,
    key: &str,
    file: &Path,
    read: impl FnOnce(&Path) -> Result<(), E>,
) {
    r.hide(key, hash(&content(file)));
    match read(file) {
        Ok(()) => warn_if_open(r, key, file),
        Err(error) => r.fault(key, error.to_string()),
    }
}

/// Warns about a secret that every user of the machine can read.
#[cfg(unix)]
pub(super) fn warn_if_open(r: &mut Reader, key: &str, file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if file.metadata().is_ok_and(|it| it.permissions().mode() & 0o004 != 0) {
        let message =
            format!("every user can read {}: chmod 600, or 640 for a group", file.display());
        r.warn(key, message);
    }
}

/// The permissions are inherited from the folder.
#[cfg(not(unix))]
pub(super) fn warn_if_open(_: &mut Reader, _: &str, _: &Path) {}
