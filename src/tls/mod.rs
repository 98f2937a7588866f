//! Certificates and keys: read from PEM files, and made into what rustls wants. TLS 1.2 and up,
//! with no switch to turn checking off.

mod keys;
mod pem;
mod settings;
mod verify;

pub use self::{
    pem::{Pair, PairFiles, TlsError, read_regular, read_regular_bytes, server},
    settings::{authorities, client, pinned, uncheckable},
};
