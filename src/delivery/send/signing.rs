//! `webhook-signature` (Standard Webhooks): `v1` (HMAC-SHA-256) and `v1a` (Ed25519) over
//! `id.timestamp.body`, one signature for each secret, so that secrets can be rotated.

use std::{fmt, sync::Arc};

use data_encoding::BASE64;
use ring::{hmac, signature::Ed25519KeyPair};

use crate::callback::CallbackId;

/// A signing secret. The Debug output does not show it.
#[derive(Clone)]
pub struct Secret(Kind);

#[derive(Clone)]
enum Kind {
    Symmetric(hmac::Key),
    Asymmetric(Arc<Ed25519KeyPair>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Symmetric(_) => "Secret(v1, ***)",
            Kind::Asymmetric(_) => "Secret(v1a, ***)",
        })
    }
}

/// A signing secret is invalid. It is never part of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Unknown prefix.
    #[error("expected a prefix of whsec_ (symmetric) or whsk_ (ed25519 private key)")]
    Prefix,
    /// Not base64 after the prefix.
    #[error("expected base64 after the prefix")]
    Base64,
    /// Wrong length of a symmetric secret.
    #[error("expected 24 to 64 bytes in base64 after whsec_")]
    Length,
    /// Wrong length of a private key.
    #[error(
        "expected an ed25519 seed of 32 bytes, or 64 bytes with its public key, in base64 after whsk_"
    )]
    Key,
}

impl Secret {
    /// Parses `whsec_…` or `whsk_…`.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let decode =
            |text: &str| BASE64.decode(text.trim().as_bytes()).map_err(|_| SecretError::Base64);
        if let Some(secret) = text.trim().strip_prefix("whsec_") {
            let bytes = decode(secret)?;
            if !(24..=64).contains(&bytes.len()) {
                return Err(SecretError::Length);
            }
            return Ok(Self(Kind::Symmetric(hmac::Key::new(hmac::HMAC_SHA256, &bytes))));
        }
        let key = text.trim().strip_prefix("whsk_").ok_or(SecretError::Prefix)?;
        let bytes = decode(key)?;
        let pair = match bytes.len() {
            32 => Ed25519KeyPair::from_seed_unchecked(&bytes),
            64 => Ed25519KeyPair::from_seed_and_public_key(&bytes[..32], &bytes[32..]),
            _ => return Err(SecretError::Key),
        };
        pair.map(|pair| Self(Kind::Asymmetric(Arc::new(pair)))).map_err(|_| SecretError::Key)
    }

    fn sign(&self, content: &[u8]) -> String {
        match &self.0 {
            Kind::Symmetric(key) => {
                format!("v1,{}", BASE64.encode(hmac::sign(key, content).as_ref()))
            }
            Kind::Asymmetric(pair) => {
                format!("v1a,{}", BASE64.encode(pair.sign(content).as_ref()))
            }
        }
    }
}

/// The value of `webhook-signature`; `None` without secrets.
pub fn signature(
    secrets: &[Secret],
    id: CallbackId,
    timestamp: u64,
    body: &[u8],
) -> Option<String> {
    if secrets.is_empty() {
        return None;
    }
    let mut content = format!("{id}.{timestamp}.").into_bytes();
    content.extend_from_slice(body);
    let signatures: Vec<_> = secrets.iter().map(|secret| secret.sign(&content)).collect();
    Some(signatures.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_secret_is_not_quoted_and_debug_hides_secrets() {
        for (text, error) in [
            ("geheim", SecretError::Prefix),
            ("whsec_!", SecretError::Base64),
            ("whsec_c2hvcnQ=", SecretError::Length),
            ("whsk_c2hvcnQ=", SecretError::Key),
        ] {
            assert_eq!(Secret::parse(text).unwrap_err(), error);
            assert!(!error.to_string().contains("c2hvcnQ"));
        }
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(v1, ***)");
    }

    #[test]
    fn every_secret_signs_in_order() {
        let secrets = [
            Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap(),
            Secret::parse(&format!("whsk_{}", BASE64.encode(&[7; 32]))).unwrap(),
        ];
        let header = signature(&secrets, CallbackId::from_u128(1), 2, b"{}").unwrap();
        let parts: Vec<_> = header.split(' ').collect();
        assert!(parts[0].starts_with("v1,") && parts[1].starts_with("v1a,"), "{header}");
        assert_eq!(signature(&[], CallbackId::from_u128(1), 2, b"{}"), None);
    }

    #[test]
    fn a_private_key_may_have_its_public_key_behind_it() {
        // Of RFC 8032's first test vector.
        const SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
        const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let [seed, mut public] = [SEED, PUBLIC].map(|text| BASE64.decode(text.as_bytes()).unwrap());
        let parse = |key: &[u8]| Secret::parse(&format!("whsk_{}", BASE64.encode(key)));
        let both = parse(&[seed.as_slice(), &public].concat()).unwrap();
        assert_eq!(both.sign(b"x"), parse(&seed).unwrap().sign(b"x"));
        public[0] ^= 1;
        assert_eq!(parse(&[seed, public].concat()).unwrap_err(), SecretError::Key);
    }
}
