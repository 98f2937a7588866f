//! Configuration of rustls clients.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, client::WebPkiServerVerifier, pki_types::CertificateDer,
};

use super::{
    keys,
    pem::{Pair, TlsError, certificates, provider},
    verify::{Trust, Verifier},
};

/// Reads a file with certificates of authorities.
pub fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = certificates(file)?;
    let mut roots = RootCertStore::empty();
    for certificate in &found {
        roots
            .add(certificate.clone())
            .map_err(|error| TlsError::Authority { file: file.to_owned(), error })?;
    }
    Ok(found)
}

/// Which of these have a key that signatures cannot be verified with, and why.
pub fn uncheckable(authorities: &[CertificateDer<'static>]) -> Vec<String> {
    let found =
        (1..).zip(authorities).filter_map(|(number, it)| Some((number, keys::uncheckable(it)?)));
    found
        .map(|(number, why)| {
            format!("certificates signed by the authority of certificate {number} cannot be verified: its key is {why}")
        })
        .collect()
}

/// The configuration of clients for receivers: the system's authorities and these, and a client
/// certificate.
pub fn client(
    authorities: Vec<CertificateDer<'static>>,
    own: Option<Pair>,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(error.message = %error, "cannot read a certificate of the system's authorities");
    }
    roots.add_parsable_certificates(system.certs);
    for certificate in &authorities {
        roots.add(certificate.clone())?;
    }
    let provider = provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    // A machine without any authority can still call plain HTTP.
    let webpki = (!roots.is_empty())
        .then(|| {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
        })
        .transpose()?;
    let verifier = Verifier { trust: Trust::Authorities { webpki, extra: authorities }, provider };
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => config.with_client_auth_cert(own.chain, own.key)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The configuration of a client for one server, identified by the
/// [fingerprint](Pair::fingerprint) of its certificate only. Without one, no server is trusted.
pub fn pinned(fingerprint: Option<&str>) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    Ok(match fingerprint {
        Some(fingerprint) => {
            let pin = Verifier { trust: Trust::Pinned(fingerprint.to_owned()), provider };
            config.dangerous().with_custom_certificate_verifier(Arc::new(pin)).with_no_client_auth()
        }
        None => config.with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
    })
}
