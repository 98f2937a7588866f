//! Verification of the peer's certificate.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use webpki::EndEntityCert;

use super::{keys, pem::fingerprint};

/// The certificate is self-signed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the receiver's certificate is self-signed and not trusted here; \
     with it in tls.ca_file it is"
)]
pub(super) struct SelfSigned;

/// The certificate is signed by an unknown authority.
#[derive(Debug, thiserror::Error)]
#[error(
    "the receiver's certificate is signed by an authority that is not known here; \
     with the authority's certificate in tls.ca_file it is"
)]
pub(super) struct UnknownAuthority;

/// The same, for a certificate that is sent without a chain.
#[derive(Debug, thiserror::Error)]
#[error(
    "the receiver's certificate is signed by an authority that is not known here, and the receiver \
     sends no other one: either it has to send its intermediate certificates, or the authority's \
     certificate belongs in tls.ca_file"
)]
pub(super) struct Alone;

/// The signature cannot be verified.
#[derive(Debug, thiserror::Error)]
#[error(
    "the receiver's certificate is signed in a way that cannot be checked here: the authority's key is \
     {0}"
)]
pub(super) struct Uncheckable(String);

/// The trusted certificates.
#[derive(Debug)]
pub(super) enum Trust {
    /// One server, identified by its certificate only.
    Pinned(String),
    /// Certificates signed by an authority, as rustls verifies them, with two differences: the error for
    /// a self-signed certificate differs from that for an unknown authority, and a self-signed
    /// certificate that is itself in `extra` (`tls.ca_file`) is accepted even if it is marked as an
    /// authority's, as openssl does by default.
    Authorities {
        /// `None` without any authority.
        webpki: Option<Arc<WebPkiServerVerifier>>,
        extra: Vec<CertificateDer<'static>>,
    },
}

/// Verifies the peer's certificate.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Trust,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (webpki, extra) = match &self.trust {
            Trust::Pinned(pin) if fingerprint(end_entity) == *pin => {
                return Ok(ServerCertVerified::assertion());
            }
            Trust::Pinned(_) => {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
            Trust::Authorities { webpki, extra } => (webpki, extra),
        };
        let verified = match webpki {
            Some(webpki) => webpki.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        let error = match verified {
            Ok(verified) => return Ok(verified),
            Err(error) => error,
        };
        let authority = is_authority(&error);
        if authority && extra.iter().any(|known| known == end_entity) {
            // Whether it is an authority's is checked only if it is valid now.
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let unknown = error == CertificateError::UnknownIssuer.into();
        if (authority || unknown) && is_self_signed(end_entity) {
            return Err(OtherError(Arc::new(SelfSigned)).into());
        }
        if unknown && intermediates.is_empty() {
            return Err(OtherError(Arc::new(Alone)).into());
        }
        if unknown {
            return Err(OtherError(Arc::new(UnknownAuthority)).into());
        }
        // The error itself is a dump of the algorithm's bytes, or says that the signature is invalid.
        // Only an authority that has signed one of these certificates can be the cause.
        let signed = || std::iter::once(end_entity).chain(intermediates);
        let signers = extra
            .iter()
            .chain(intermediates)
            .filter(|known| signed().any(|it| is_issuer(known, it)));
        match signers.into_iter().find_map(keys::uncheckable).filter(|_| is_signature(&error)) {
            Some(why) => Err(OtherError(Arc::new(Uncheckable(why))).into()),
            None => Err(error),
        }
    }

    // A certificate is public; these two functions verify that the peer has its key.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether the only error is that the certificate is marked as an authority's.
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else {
        return false;
    };
    matches!(inner.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Whether the error is an invalid signature, or one of an unsupported type.
fn is_signature(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::BadSignature
                | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
                | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
        )
    )
}

/// Whether a certificate names this authority as its issuer.
fn is_issuer(authority: &CertificateDer<'_>, certificate: &CertificateDer<'_>) -> bool {
    let (authority, certificate) =
        (EndEntityCert::try_from(authority), EndEntityCert::try_from(certificate));
    matches!((authority, certificate), (Ok(a), Ok(c)) if a.subject() == c.issuer())
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate).is_ok_and(|it| it.issuer() == it.subject())
}
