//! TLS: certificates and keys from PEM files, and the configuration of rustls. TLS 1.2 and later;
//! verification cannot be turned off.

mod keys;
mod pem;
mod settings;
mod verify;

pub use self::{
    pem::{Pair, PairFiles, TlsError, read_regular, read_regular_bytes, server},
    settings::{authorities, client, pinned, uncheckable},
};
