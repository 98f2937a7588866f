//! Settings that name files: certificates, keys, tokens and passwords. The files are read when the
//! settings are loaded, so that a wrong path is an error of its key and not of the first callback.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use figment::value::Value;

use super::{reader::Reader, values::quoted};
use crate::{
    callback::{Destination, redact_url},
    datadir,
    delivery::send::credentials::CredentialFile,
    tls::{self, PairFiles, TlsError},
};

/// Certificates of authorities.
pub(super) fn ca_file(r: &mut Reader, key: &'static str) -> Option<PathBuf> {
    let file = PathBuf::from(r.text(key)?);
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
    match pair.read() {
        Ok(_) => warn_if_open(r, key, &pair.key),
        Err(error @ TlsError::Key { .. }) => r.fault(key, error.to_string()),
        Err(error) => r.fault(certificates, error.to_string()),
    }
    Some(pair)
}

/// `api.read_token_file`. It is never created, so it has to be there.
pub(super) fn read_token(r: &mut Reader, token_file: &Path) -> Option<PathBuf> {
    const KEY: &str = "api.read_token_file";
    let file = PathBuf::from(r.text(KEY)?);
    // The service creates the operator's token, and not everyone who runs a command may read it.
    let operator = datadir::read_token(token_file).ok();
    match datadir::read_only_token(&file, operator.as_deref()) {
        Ok(_) => warn_if_open(r, KEY, &file),
        Err(error) => r.fault(KEY, error.to_string()),
    }
    Some(file)
}

/// `auth."<scheme://host:port>"`.
pub(super) fn auth(r: &mut Reader) -> BTreeMap<Destination, CredentialFile> {
    const KEY: &str = "auth";
    let mut found = BTreeMap::new();
    let mut shown = Vec::new();
    for (name, value) in r.tables(KEY) {
        let Some(destination) = Destination::parse(&name) else {
            r.fault(
                KEY,
                format!(
                    "invalid destination {}; expected scheme, host and port such as \"https://host:8443\"",
                    quoted(&redact_url(&name))
                ),
            );
            continue;
        };
        match credentials(&value) {
            Ok(file) => {
                warn_if_open(r, KEY, file.path());
                shown.push(format!("{} = \"***\"", quoted(destination.as_str())));
                if found.insert(destination, file).is_some() {
                    r.fault(
                        KEY,
                        format!(
                            "{} names a destination that has a section already",
                            quoted(&redact_url(&name))
                        ),
                    );
                }
            }
            Err(message) => r.fault(KEY, format!("{}: {message}", quoted(&redact_url(&name)))),
        }
    }
    r.note(KEY, (!shown.is_empty()).then(|| format!("{{ {} }}", shown.join(", "))));
    found
}

fn credentials(value: &Value) -> Result<CredentialFile, String> {
    const WANTED: &str = "it requires bearer_token_file, or username and password_file";
    let Value::Dict(_, table) = value else { return Err(WANTED.into()) };
    let text = |key: &str| table.get(key).and_then(Value::as_str);
    let known = ["bearer_token_file", "username", "password_file"];
    if let Some(other) = table.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown setting `{other}`; {WANTED}"));
    }
    let file = match (text(known[0]), text(known[1]), text(known[2])) {
        (Some(file), None, None) => CredentialFile::Bearer(file.into()),
        (None, Some(username), Some(file)) => {
            CredentialFile::Basic { username: username.into(), password: file.into() }
        }
        _ => return Err(WANTED.into()),
    };
    file.read().map_err(|error| error.to_string())?;
    Ok(file)
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
