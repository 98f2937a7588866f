//! Settings that are files: certificates, keys, tokens and passwords. They are read when the
//! settings are, so that a wrong path is a fault of its key and not of the first callback.

use std::{collections::BTreeMap, sync::Arc};

use figment::value::Value;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::reader::{Reader, quoted};
use crate::{
    callback::Destination,
    delivery::{attempt::Credentials, client::Identity},
};

fn certificates(r: &mut Reader, key: &'static str) -> Option<Vec<CertificateDer<'static>>> {
    let file = r.text(key)?;
    let read = CertificateDer::pem_file_iter(&file)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
    match read {
        Ok(found) if !found.is_empty() => Some(found),
        Ok(_) => {
            r.fault(key, format!("{file} holds no certificate in PEM"));
            None
        }
        Err(error) => {
            r.fault(key, format!("{file} cannot be read as certificates in PEM: {error}"));
            None
        }
    }
}

/// `tls.ca_file`.
pub(super) fn ca_file(r: &mut Reader) -> Vec<CertificateDer<'static>> {
    certificates(r, "tls.ca_file").unwrap_or_default()
}

/// `tls.client_cert_file` and `tls.client_key_file`, which go together.
pub(super) fn identity(r: &mut Reader) -> Option<Arc<Identity>> {
    const KEY: &str = "tls.client_key_file";
    let chain = certificates(r, "tls.client_cert_file");
    let file = r.text(KEY);
    let key = file.as_ref().and_then(|file| match PrivateKeyDer::from_pem_file(file) {
        Ok(key) => Some(key),
        Err(error) => {
            r.fault(KEY, format!("{file} cannot be read as a private key in PEM: {error}"));
            None
        }
    });
    match (r.is_set("tls.client_cert_file"), file.is_some()) {
        (true, false) => r.fault("tls.client_cert_file", "needs tls.client_key_file beside it"),
        (false, true) => r.fault(KEY, "needs tls.client_cert_file beside it"),
        _ => {}
    }
    Some(Arc::new(Identity { chain: chain?, key: key? }))
}

/// `auth."<scheme://host:port>"`.
pub(super) fn auth(r: &mut Reader) -> BTreeMap<Destination, Credentials> {
    const KEY: &str = "auth";
    let mut found = BTreeMap::new();
    let mut shown = Vec::new();
    for (name, value) in r.tables(KEY) {
        let Some(destination) = Destination::parse(&name) else {
            r.fault(
                KEY,
                format!("{} is no destination such as \"https://host:8443\"", quoted(&name)),
            );
            continue;
        };
        match credentials(&value) {
            Ok(credentials) => {
                shown.push(format!("{} = \"***\"", quoted(destination.as_str())));
                if found.insert(destination, credentials).is_some() {
                    r.fault(
                        KEY,
                        format!("{} names a destination that is there already", quoted(&name)),
                    );
                }
            }
            Err(message) => r.fault(KEY, format!("{}: {message}", quoted(&name))),
        }
    }
    r.note(KEY, (!shown.is_empty()).then(|| format!("{{ {} }}", shown.join(", "))));
    found
}

fn credentials(value: &Value) -> Result<Credentials, String> {
    const WANTED: &str = "it takes bearer_token_file, or username and password_file";
    let Value::Dict(_, table) = value else { return Err(WANTED.into()) };
    let text = |key: &str| table.get(key).and_then(Value::as_str);
    let known = ["bearer_token_file", "username", "password_file"];
    if let Some(other) = table.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown setting `{other}`; {WANTED}"));
    }
    match (text(known[0]), text(known[1]), text(known[2])) {
        (Some(file), None, None) => Ok(Credentials::Bearer(secret(file)?)),
        (None, Some(username), Some(file)) => {
            Ok(Credentials::Basic { username: username.into(), password: secret(file)? })
        }
        _ => Err(WANTED.into()),
    }
}

/// The content of a file, without the line's end that editors put behind it.
fn secret(file: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() || secret.contains(['\r', '\n', '\0']) {
        return Err(format!("{file} has to hold one line that is not empty"));
    }
    Ok(secret.to_owned())
}
