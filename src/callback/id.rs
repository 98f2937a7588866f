//! The public name of a callback.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The public name of a callback: 26 characters of lower-case base32 that sort by age.
///
/// It is the `webhook-id` of every attempt and replay. The outbox assigns it; to everything else it is
/// opaque.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallbackId(u128);

impl CallbackId {
    /// The id with this number.
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The number of the id.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for CallbackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Base32 with the extended hex alphabet keeps the order of the bytes (RFC 4648, 7).
        f.write_str(&data_encoding::BASE32_DNSSEC.encode(&self.0.to_be_bytes()))
    }
}

impl fmt::Debug for CallbackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a callback id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid callback id `{0}`; expected 26 characters from 0-9 and a-v")]
pub struct ParseIdError(String);

impl FromStr for CallbackId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        data_encoding::BASE32_DNSSEC
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .map(|bytes| Self(u128::from_be_bytes(bytes)))
            .ok_or_else(|| ParseIdError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_through_text_and_sort_by_number() {
        let (a, b) = (CallbackId::from_u128(1 << 64), CallbackId::from_u128(u128::MAX));
        assert_eq!(a.to_string().parse::<CallbackId>().unwrap(), a);
        assert_eq!(a.to_string().len(), 26);
        assert!(a.to_string() < b.to_string());
        assert!("x".parse::<CallbackId>().is_err());
        assert!("é".parse::<CallbackId>().is_err());
    }
}
