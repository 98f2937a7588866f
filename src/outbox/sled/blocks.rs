//! Rows that many callbacks share: sets of callbacks, and entries.
//!
//! sled copies a leaf for each row that changes. Callbacks accepted together usually also end together,
//! so with one row for many of them a batch changes a few rows instead of a few thousand.

use sled::IVec;

use crate::outbox::{
    OutboxError,
    error::Result,
    record::{CodecError, RECORD_FORMAT},
};

/// Number of callbacks covered by one set.
pub(super) const SET: u64 = 1024;

/// Number of callbacks whose records may share a row.
pub(super) const RECORDS: u64 = 16;

/// Number of callbacks whose progress shares a row.
pub(super) const PROGRESS: u64 = PROGRESS_LEN as u64;
pub(super) const PROGRESS_LEN: usize = 8;

const WORDS: usize = 16;
/// A set with fewer members is stored as a list, which is shorter.
const SPARSE: usize = 64;
const DENSE: u8 = u8::MAX;

/// A set of callbacks within one block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Set([u64; WORDS]);

impl Set {
    fn place(seq: u64) -> (usize, u64) {
        let at = seq % SET;
        ((at / 64) as usize, 1 << (at % 64))
    }

    /// Adds a callback. Returns whether it is new.
    pub(super) fn insert(&mut self, seq: u64) -> bool {
        let (word, bit) = Self::place(seq);
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// Removes a callback. Returns whether it was a member.
    pub(super) fn remove(&mut self, seq: u64) -> bool {
        let (word, bit) = Self::place(seq);
        let known = self.0[word] & bit != 0;
        self.0[word] &= !bit;
        known
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        let (word, bit) = Self::place(seq);
        self.0[word] & bit != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The union of both sets.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] | other.0[at]))
    }

    /// The members in block `block`, in order.
    pub(super) fn members(&self, block: u64) -> impl DoubleEndedIterator<Item = u64> + use<> {
        let set = *self;
        (block * SET..block.saturating_add(1).saturating_mul(SET))
            .filter(move |seq| set.contains(*seq))
    }

    /// The first member at or after `from`. `from` must not be after the end of block `block`.
    pub(super) fn next(&self, block: u64, from: u64) -> Option<u64> {
        let begin = block * SET;
        let at = from.saturating_sub(begin);
        let mut word = usize::try_from(at / 64).ok().filter(|word| *word < WORDS)?;
        let mut bits = self.0[word] & (u64::MAX << (at % 64));
        while bits == 0 {
            word += 1;
            bits = *self.0.get(word)?;
        }
        Some(begin + word as u64 * 64 + u64::from(bits.trailing_zeros()))
    }

    fn write(&self, out: &mut Vec<u8>) {
        let members = self.len();
        match u8::try_from(members) {
            Ok(few) if usize::from(few) < SPARSE => {
                out.push(few);
                for seq in self.members(0) {
                    #[expect(clippy::cast_possible_truncation, reason = "it is below 1024")]
                    out.extend((seq as u16).to_be_bytes());
                }
            }
            _ => {
                out.push(DENSE);
                self.0.iter().for_each(|word| out.extend(word.to_be_bytes()));
            }
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        *bytes = rest;
        let mut set = Self::default();
        if *kind == DENSE {
            for word in &mut set.0 {
                let (first, rest) = bytes.split_first_chunk()?;
                (*word, *bytes) = (u64::from_be_bytes(*first), rest);
            }
        } else {
            for _ in 0..*kind {
                let (first, rest) = bytes.split_first_chunk()?;
                let seq = u64::from(u16::from_be_bytes(*first));
                if seq >= SET || !set.insert(seq) {
                    return None;
                }
                *bytes = rest;
            }
        }
        Some(set)
    }
}

/// Encodes sets.
pub(super) fn encode_sets<const N: usize>(sets: [&Set; N]) -> Vec<u8> {
    let mut out = vec![RECORD_FORMAT];
    sets.iter().for_each(|set| set.write(&mut out));
    out
}

/// Decodes what [`encode_sets`] wrote.
pub(super) fn decode_sets<const N: usize>(key: &[u8], bytes: &[u8]) -> Result<[Set; N]> {
    let read = || {
        let (RECORD_FORMAT, mut rest) = bytes.split_first().map(|(first, rest)| (*first, rest))?
        else {
            return None;
        };
        let mut sets = [Set::default(); N];
        for set in &mut sets {
            *set = Set::read(&mut rest)?;
        }
        rest.is_empty().then_some(sets)
    };
    read().ok_or_else(|| unreadable(key, "not a set of callbacks"))
}

/// The pending callbacks of one block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) fresh: Set,
    pub(super) others: Set,
}

impl Pending {
    pub(super) fn contains(&self, seq: u64) -> bool {
        self.fresh.contains(seq) || self.others.contains(seq)
    }

    pub(super) fn all(&self) -> Set {
        self.fresh.union(&self.others)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode_sets([&self.fresh, &self.others])
    }

    pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Result<Self> {
        let [fresh, others] = decode_sets(key, bytes)?;
        Ok(Self { fresh, others })
    }
}

/// An entry of a shared row: the callback's position in the block, and the byte range of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u8,
    pub(super) begin: usize,
    pub(super) len: usize,
}

impl Entry {
    pub(super) fn of<'a>(&self, row: &'a [u8]) -> &'a [u8] {
        row.get(self.begin..self.begin + self.len).unwrap_or_default()
    }
}

/// Adds an entry to a row, which begins with [`new_row`].
pub(super) fn add_entry(row: &mut Vec<u8>, offset: u8, bytes: &[u8]) {
    row.push(offset);
    row.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    row.extend_from_slice(bytes);
}

/// A row without entries.
pub(super) fn new_row() -> Vec<u8> {
    vec![RECORD_FORMAT]
}

/// The entries of a row.
pub(super) fn entries(key: &[u8], row: &[u8]) -> Result<Vec<Entry>> {
    if row.first() != Some(&RECORD_FORMAT) {
        return Err(unreadable(key, &CodecError::Format(row.first().copied()).to_string()));
    }
    let mut found = Vec::new();
    let mut at = 1;
    while at < row.len() {
        let header = row.get(at..).and_then(|rest| rest.first_chunk::<5>());
        let entry = header.map(|[offset, len @ ..]| Entry {
            offset: *offset,
            begin: at + 5,
            len: u32::from_be_bytes(*len) as usize,
        });
        let Some(entry) = entry.filter(|entry| row.len() - entry.begin >= entry.len) else {
            return Err(unreadable(key, "an entry is cut off"));
        };
        at = entry.begin + entry.len;
        found.push(entry);
    }
    Ok(found)
}

/// The bytes of the entry with this offset.
pub(super) fn entry(key: &[u8], row: &IVec, offset: u8) -> Result<Option<IVec>> {
    let entries = entries(key, row)?;
    let found = entries.into_iter().find(|entry| entry.offset == offset);
    Ok(found.map(|entry| row.subslice(entry.begin, entry.len)))
}

/// The error for a row that cannot be read.
pub(super) fn unreadable(key: &[u8], reason: &str) -> OutboxError {
    OutboxError::UnreadableRow { key: data_encoding::HEXLOWER.encode(key), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_member_is_found_across_words() {
        let mut set = Set::default();
        for seq in [2 * SET, 2 * SET + 63, 2 * SET + 64, 3 * SET - 1] {
            assert!(set.insert(seq));
        }
        assert!(!set.insert(2 * SET));
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(seq) = set.next(2, from) {
            found.push(seq);
            from = seq + 1;
        }
        assert_eq!(found, set.members(2).collect::<Vec<_>>());
        assert_eq!(found, [2 * SET, 2 * SET + 63, 2 * SET + 64, 3 * SET - 1]);
        assert_eq!(set.next(2, 3 * SET), None);
    }

    proptest! {
        #[test]
        fn sets_round_trip(members in prop::collection::hash_set(0..SET, 0..200)) {
            let mut set = Set::default();
            for member in &members {
                set.insert(*member);
            }
            prop_assert_eq!(set.len(), members.len() as u64);
            let both = encode_sets([&set, &Set::default()]);
            prop_assert!(both.len() <= 131);
            prop_assert_eq!(decode_sets(b"", &both).unwrap(), [set, Set::default()]);
            prop_assert!(decode_sets::<2>(b"", &both[..both.len() - 1]).is_err());
        }

        #[test]
        fn entries_round_trip(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..16)) {
            let mut row = new_row();
            for (offset, value) in (0..).zip(&values) {
                add_entry(&mut row, offset, value);
            }
            let found: Vec<_> = entries(b"", &row).unwrap().iter().map(|it| it.of(&row).to_vec()).collect();
            prop_assert_eq!(&found, &values);
            if !values.is_empty() {
                prop_assert!(entries(b"", &row[..row.len() - 1]).is_err() || values.last().is_some_and(Vec::is_empty));
            }
        }
    }
}
