//! The settings `outbox.postgres.*`.

use std::path::PathBuf;

use super::{files, reader::Reader};
use crate::{
    callback::SecretUrl,
    outbox::{Common, postgres},
    tls,
};

const URL: &str = "outbox.postgres.url";
const SESSION_URL: &str = "outbox.postgres.session_url";

/// The settings of the store in PostgreSQL, if one is configured, with those that every store has.
pub(super) fn settings(r: &mut Reader, common: &Common) -> Option<postgres::Settings> {
    let (url, session_url) = (url(r, URL), url(r, SESSION_URL));
    let password_file = password_file(r);
    let ca_file = files::ca_file(r, "outbox.postgres.ca_file");
    let identity =
        files::pair(r, "outbox.postgres.client_cert_file", "outbox.postgres.client_key_file");
    let schema = r.text_or("outbox.postgres.schema", "urlcallback");
    // The limit of PostgreSQL's names; its own schemas begin with `pg_`.
    if schema.is_empty() || schema.len() > 63 || schema.starts_with("pg_") || schema.contains('\0')
    {
        r.fault(
            "outbox.postgres.schema",
            "has to be the name of a schema, of 1 to 63 bytes and not beginning with pg_",
        );
    }
    let Some(url) = url else {
        for key in [
            SESSION_URL,
            "outbox.postgres.password_file",
            "outbox.postgres.ca_file",
            "outbox.postgres.client_cert_file",
        ] {
            if r.is_set(key) {
                r.fault(key, format!("also requires {URL}"));
            }
        }
        return None;
    };
    for key in ["outbox.cache_bytes", "outbox.min_free_bytes"] {
        if r.is_set(key) {
            r.warn(key, format!("has no effect with {URL}"));
        }
    }
    Some(postgres::Settings {
        url,
        session_url,
        password_file,
        ca_file,
        identity,
        schema,
        common: common.clone(),
    })
}

fn url(r: &mut Reader, key: &'static str) -> Option<SecretUrl> {
    let url = SecretUrl::from(r.text(key)?);
    r.show(key, &url);
    if let Err(reason) = postgres::check_url(&url) {
        r.fault(
            key,
            format!("has to be a URL such as \"postgresql://user@host:5432/database\": {reason}"),
        );
    }
    if let Some(file) = r.file(key).filter(|_| url.has_password()) {
        files::warn_if_open(r, key, &file);
    }
    Some(url)
}

fn password_file(r: &mut Reader) -> Option<PathBuf> {
    const KEY: &str = "outbox.postgres.password_file";
    let file = PathBuf::from(r.text(KEY)?);
    match tls::read_regular(&file) {
        Ok(_) => files::warn_if_open(r, KEY, &file),
        Err(error) => r.fault(KEY, format!("cannot read {}: {error}", file.display())),
    }
    Some(file)
}
