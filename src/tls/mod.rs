//! Certificates and keys: read from PEM files, and made into what rustls wants. TLS 1.2 and up,
//! with no switch to turn checking off.

mod keys;
mod verify;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use data_encoding::BASE64URL_NOPAD;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{VerifierBuilderError, WebPkiServerVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

use crate::tls::verify::{Trust, Verifier};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates.
    #[error("{} cannot be read as certificates in PEM: {error}", file.display())]
    Certificates {
        /// Which one.
        file: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// A file that should hold certificates holds none.
    #[error("{} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// A file with a key. What it holds is never part of the message.
    #[error("{} cannot be read as a private key in PEM: {error}", file.display())]
    Key {
        /// Which one.
        file: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// The certificate and the key do not belong together, or are of a kind that is not known.
    #[error("{} and {} do not work together: {error}", certificates.display(), key.display())]
    Pair {
        /// The file with the certificates.
        certificates: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// What rustls says.
        error: rustls::Error,
    },
    /// An authority's certificate is none.
    #[error("{}: {error}", file.display())]
    Authority {
        /// The file that it is in.
        file: PathBuf,
        /// What rustls says.
        error: rustls::Error,
    },
    /// No authority at all is known.
    #[error("no certificate authority is known, neither the system's nor one in tls.ca_file: {0}")]
    NoAuthority(#[from] VerifierBuilderError),
    /// Anything else.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// A certificate and its key, as two files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairFiles {
    /// The certificate, and those between it and its root.
    pub certificates: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A certificate and its key. The Debug output does not show the key.
pub struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({} certificates, key ***)", self.chain.len())
    }
}

impl PairFiles {
    /// Reads both, and finds out whether they belong together.
    pub fn read(&self) -> Result<Pair, TlsError> {
        let chain = certificates(&self.certificates)?;
        let key = read_regular(&self.key)
            .map_err(pem::Error::Io)
            .and_then(|text| PrivateKeyDer::from_pem_slice(text.as_bytes()))
            .map_err(|error| TlsError::Key { file: self.key.clone(), error })?;
        let pair = Pair { chain, key };
        match server(&pair) {
            Ok(_) => Ok(pair),
            Err(error) => Err(TlsError::Pair {
                certificates: self.certificates.clone(),
                key: self.key.clone(),
                error,
            }),
        }
    }
}

impl Pair {
    /// What the certificate is known by: the SHA-256 of its bytes, in base64.
    pub fn fingerprint(&self) -> String {
        self.chain.first().map_or_else(String::new, fingerprint)
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    BASE64URL_NOPAD.encode(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref())
}

/// The text of a file that is one: a pipe in its place would be waited for.
pub fn read_regular(file: &Path) -> std::io::Result<String> {
    String::from_utf8(read_regular_bytes(file)?)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// The same, for what need not be text.
pub fn read_regular_bytes(file: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(file)?.is_file() {
        return std::fs::read(file);
    }
    Err(std::io::Error::other("it is no regular file"))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = read_regular(file)
        .map_err(pem::Error::Io)
        .and_then(|text| CertificateDer::pem_slice_iter(text.as_bytes()).collect())
        .map_err(|error| TlsError::Certificates { file: file.to_owned(), error })?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate(file.to_owned()));
    }
    Ok(found)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities in a file, each usable as a root.
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

/// Which of these have a key that no signature can be checked with, and why.
pub fn uncheckable(authorities: &[CertificateDer<'static>]) -> Vec<String> {
    let found =
        (1..).zip(authorities).filter_map(|(number, it)| Some((number, keys::uncheckable(it)?)));
    found
        .map(|(number, why)| {
            format!("nothing that the authority of certificate {number} has signed can be checked: its key is {why}")
        })
        .collect()
}

/// For what we connect to: the system's roots and these, and our own certificate.
pub fn client(
    authorities: Vec<CertificateDer<'static>>,
    own: Option<Pair>,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(error.message = %error, "a system root certificate cannot be read");
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

/// For who connects to us, with this certificate.
pub fn server(own: &Pair) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(own.chain.clone(), own.key.clone_key())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// For one server, known by its certificate's [fingerprint](Pair::fingerprint) alone, whatever
/// name it bears and whoever signed it. Without one, nothing behind TLS is trusted.
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
