//! The form of the ids: `seq ‖ queue`.
//!
//! *queue* is 8 bytes of SHA-256 over the store's random salt and the destination; *seq* is the position
//! in the order of acceptance. An id sorts by age and, because of the salt, is unique across stores. All
//! stores use the same form, so that an import can keep the ids of an export from another kind of store.

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::callback::{CallbackId, Destination};

/// The key of a destination's queue within one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueueKey(pub(crate) u64);

impl QueueKey {
    /// The queue of `destination` in the store with this salt.
    pub(crate) fn of(salt: &[u8; 16], destination: &Destination) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(salt);
        context.update(destination.as_str().as_bytes());
        Self(number(context.finish().as_ref()))
    }
}

/// 16 random bytes: a new salt.
pub(crate) fn random() -> std::io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| std::io::Error::other("the system gives no random numbers"))?;
    Ok(bytes)
}

/// The id of the callback `seq` in `queue`.
pub(crate) fn id(seq: u64, queue: QueueKey) -> CallbackId {
    CallbackId::from_u128((u128::from(seq) << 64) | u128::from(queue.0))
}

/// The two halves of an id.
pub(crate) fn parts(id: CallbackId) -> (u64, QueueKey) {
    let value = id.as_u128();
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a u128 fit u64")]
    ((value >> 64) as u64, QueueKey(value as u64))
}

/// The seq of an id.
pub(crate) fn seq_of(id: CallbackId) -> u64 {
    parts(id).0
}

/// The first eight bytes as a number; 0 if there are fewer.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_through_their_parts() {
        let queue = QueueKey::of(&[1; 16], &Destination::parse("http://h").unwrap());
        assert_eq!(parts(id(77, queue)), (77, queue));
        assert_ne!(queue, QueueKey::of(&[2; 16], &Destination::parse("http://h").unwrap()));
    }
}
