//! Who the other side is.

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

/// Nobody but the certificate itself says that it is good.
#[derive(Debug, thiserror::Error)]
#[error(
    "the receiver's certificate is self-signed and not trusted here; \
     with it in tls.ca_file it is"
)]
pub(super) struct SelfSigned;

/// Somebody has signed the certificate who is not known.
#[derive(Debug, thiserror::Error)]
#[error(
    "the receiver's certificate is signed by an authority that is not known here; \
     with the authority's certificate in tls.ca_file it is"
)]
pub(super) struct UnknownAuthority;

/// The same, of one that the receiver sends without any other.
#[derive(Debug, thiserror::Error)]
#[error(
    "the receiver's certificate is signed by an authority that is not known here, and the receiver \
     sends no other one: either it has to send its intermediate certificates, or the authority's \
     certificate belongs in tls.ca_file"
)]
pub(super) struct Alone;

/// The signature cannot be checked.
#[derive(Debug, thiserror::Error)]
#[error(
    "the receiver's certificate is signed in a way that cannot be checked here: the authority's key is \
     {0}"
)]
pub(super) struct Uncheckable(String);

/// Who is trusted.
#[derive(Debug)]
pub(super) enum Trust {
    /// One server, known by its certificate alone, whatever name it bears.
    Pinned(String),
    /// Who an authority has signed for. It decides as rustls does, with two differences: it tells
    /// a self-signed certificate from one of an unknown authority, and it takes a self-signed one
    /// that is itself among the `extra` ones (`tls.ca_file`) also where that says that it is an
    /// authority's, as openssl makes them.
    Authorities {
        /// Without any authority, there is none.
        webpki: Option<Arc<WebPkiServerVerifier>>,
        extra: Vec<CertificateDer<'static>>,
    },
}

/// Finds out whether the other side is trusted.
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
            // That it is an authority's is looked at when it is known to be valid now.
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
        // The error itself is a dump of the algorithm's bytes, or says that the signature is bad.
        // Only who has signed something here can be to blame.
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

    // A certificate is public; that its key is there as well is what these two find out.
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

/// Whether all that is wrong is that the certificate says that it is an authority's.
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else {
        return false;
    };
    matches!(inner.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Whether it is a signature that is not good, or is of no known kind.
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

/// Whether a certificate names this authority as the one who has signed it.
fn is_issuer(authority: &CertificateDer<'_>, certificate: &CertificateDer<'_>) -> bool {
    let (authority, certificate) =
        (EndEntityCert::try_from(authority), EndEntityCert::try_from(certificate));
    matches!((authority, certificate), (Ok(a), Ok(c)) if a.subject() == c.issuer())
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate).is_ok_and(|it| it.issuer() == it.subject())
}
