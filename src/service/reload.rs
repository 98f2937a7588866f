//! SIGHUP: rereads the API's tokens and certificate, and the certificates, tokens and passwords for
//! receivers. Settings are not reread; they need a restart. If a file cannot be used, what was read
//! before stays in effect.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    api,
    config::Config,
    datadir::{self, DataDir, DataDirError, Note},
    delivery::send::attempt::Means,
    sources::nats,
    tls::{self, PairFiles, TlsError},
};

/// The files that are reread on SIGHUP, and the users of their content.
pub(super) struct Reload<'a> {
    pub(super) config: &'a Config,
    pub(super) data_dir: &'a DataDir,
    pub(super) tokens: api::Tokens,
    pub(super) tls: Option<api::server::Tls>,
    pub(super) means: Arc<ArcSwap<Means>>,
    pub(super) nats: Option<Arc<nats::Secrets>>,
    pub(super) note: Note,
}

/// The API's certificate cannot be reread.
#[derive(Debug, thiserror::Error)]
enum ApiTlsError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Note(#[from] DataDirError),
}

/// Reads the operator's token, and the read-only one where there is one.
pub(super) fn tokens(config: &Config) -> Result<(String, Option<String>), DataDirError> {
    let api = &config.api;
    datadir::read_tokens(&api.token_file, api.read_token_file.as_deref())
}

impl Reload<'_> {
    pub(super) fn all(&self) {
        say(
            "token-read",
            "the API's tokens",
            tokens(self.config).map(|(operator, reader)| self.tokens.replace(operator, reader)),
        );
        if let (Some(files), Some(tls)) = (&self.config.api.tls, &self.tls) {
            say("api-certificate-read", "the API's certificate", self.api_tls(files, tls));
        }
        let means = self.config.means();
        say(
            "client-files-read",
            "certificates, tokens and passwords for receivers",
            means.map(|means| self.means.store(Arc::new(means))),
        );
        if let Some(nats) = self.nats.clone() {
            tokio::spawn(async move {
                say(
                    "nats-files-read",
                    "certificates and secrets for NATS",
                    nats.read_again().await,
                );
            });
        }
    }

    fn api_tls(&self, files: &PairFiles, tls: &api::server::Tls) -> Result<(), ApiTlsError> {
        let pair = files.read()?;
        let config = tls::server(&pair).map_err(TlsError::from)?;
        // Commands identify the service by its certificate.
        let certificate = Some(pair.fingerprint());
        self.data_dir.write_note(&Note { certificate, ..self.note.clone() })?;
        tls.store(Arc::new(config));
        Ok(())
    }
}

fn say<E: std::fmt::Display>(action: &str, what: &str, done: Result<(), E>) {
    match done {
        Ok(()) => {
            tracing::info!(event.action = action, event.outcome = "success", "read again: {what}");
        }
        Err(error) => tracing::error!(
            event.action = action,
            event.outcome = "failure",
            error.message = %error,
            "cannot be reread and stays unchanged: {what}"
        ),
    }
}
