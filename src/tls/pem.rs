//! Certificates and keys in PEM files.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use data_encoding::BASE64URL_NOPAD;
use rustls::{
    ServerConfig,
    client::VerifierBuilderError,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates.
    #[error("cannot read certificates in PEM from {}: {error}", file.display())]
    Certificates {
        /// Which one.
        file: PathBuf,
        /// The reason.
        error: pem::Error,
    },
    /// A file without certificates.
    #[error("{} contains no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// A file with a key. Its content is never part of the message.
    #[error("cannot read a private key in PEM from {}: {error}", file.display())]
    Key {
        /// Which one.
        file: PathBuf,
        /// The reason.
        error: pem::Error,
    },
    /// The certificate and the key do not match, or are of an unsupported type.
    #[error("{} and {} do not work together: {error}", certificates.display(), key.display())]
    Pair {
        /// The file with the certificates.
        certificates: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// The error of rustls.
        error: rustls::Error,
    },
    /// A certificate of an authority is invalid.
    #[error("{}: {error}", file.display())]
    Authority {
        /// The file that it is in.
        file: PathBuf,
        /// The error of rustls.
        error: rustls::Error,
    },
    /// There is no certificate authority.
    #[error("no certificate authority, neither the system's nor in tls.ca_file: {0}")]
    NoAuthority(#[from] VerifierBuilderError),
    /// Anything else.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The PEM files of a certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairFiles {
    /// The certificate chain.
    pub certificates: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A certificate and its key. The Debug output does not show the key.
pub struct Pair {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({} certificates, key ***)", self.chain.len())
    }
}

impl PairFiles {
    /// Reads both, and checks that they match.
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
    /// Fingerprint of the certificate: the SHA-256 of its DER, in base64.
    pub fn fingerprint(&self) -> String {
        self.chain.first().map_or_else(String::new, fingerprint)
    }
}

pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    BASE64URL_NOPAD.encode(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref())
}

/// Reads a regular file as text. A pipe is an error, because it could block.
pub fn read_regular(file: &Path) -> std::io::Result<String> {
    String::from_utf8(read_regular_bytes(file)?)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Reads a regular file.
pub fn read_regular_bytes(file: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(file)?.is_file() {
        return std::fs::read(file);
    }
    Err(std::io::Error::other("it is not a regular file"))
}

pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = read_regular(file)
        .map_err(pem::Error::Io)
        .and_then(|text| CertificateDer::pem_slice_iter(text.as_bytes()).collect())
        .map_err(|error| TlsError::Certificates { file: file.to_owned(), error })?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate(file.to_owned()));
    }
    Ok(found)
}

/// The configuration of a server with this certificate.
pub fn server(own: &Pair) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(own.chain.clone(), own.key.clone_key())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
