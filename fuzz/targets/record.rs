//! The codec of stored values: whatever the bytes are, decoding them returns a value or an error, and
//! asks for no more memory than they have; what is written is read again as it was; and a value that
//! was cut off is never taken for a whole one, except that of an earlier version, which has no trace.
//!
//! The input is decoded as it is, and is also what a record is made of.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use seal_dpf_urlcallback::{
    callback::{Body, CallbackId, Destination, JobState, SecretUrl, Trace},
    clock::Timestamp,
    outbox::{
        Attempt, ErrorKind, Failure, Readiness, Record, State,
        record::{Progress, decode, encode},
    },
};
use seal_dpf_urlcallback_fuzz::allocations::{Watched, largest_of};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// A decoder needs almost no memory in addition to the texts.
const SLACK: usize = 1024;

type Made<T> = arbitrary::Result<T>;

fn time(u: &mut Unstructured<'_>) -> Made<Timestamp> {
    Ok(Timestamp::from_millis(u.arbitrary()?))
}

fn failure(u: &mut Unstructured<'_>) -> Made<Failure> {
    let kind = *u.choose(&ErrorKind::ALL)?;
    Ok(Failure { kind, message: u.arbitrary()?, status: u.arbitrary()? })
}

fn optional<T>(
    u: &mut Unstructured<'_>,
    make: impl FnOnce(&mut Unstructured<'_>) -> Made<T>,
) -> Made<Option<T>> {
    if u.arbitrary()? { make(u).map(Some) } else { Ok(None) }
}

fn attempt(u: &mut Unstructured<'_>) -> Made<Attempt> {
    Ok(Attempt {
        number: u.arbitrary()?,
        started_at: time(u)?,
        duration_ms: u.arbitrary()?,
        status: u.arbitrary()?,
        error: optional(u, failure)?,
        peer: u.arbitrary()?,
        response_excerpt: u.arbitrary()?,
    })
}

fn trace(u: &mut Unstructured<'_>) -> Made<Trace> {
    let (id, flags): (u128, u8) = (u.arbitrary()?, u.arbitrary()?);
    let state: Option<String> = u.arbitrary()?;
    let parent = format!("00-{:032x}-{:016x}-{flags:02x}", id.max(1), 1);
    // A state that is not kept leaves the trace.
    let made = Trace::parse(&parent, state.as_deref()).or_else(|| Trace::parse(&parent, None));
    made.ok_or(arbitrary::Error::IncorrectFormat)
}

fn record(u: &mut Unstructured<'_>) -> Made<Record> {
    let at = time(u)?;
    Ok(Record {
        id: CallbackId::from_u128(u.arbitrary()?),
        event_id: u.arbitrary()?,
        body: Body {
            job_id: u.arbitrary()?,
            job_id_fs: u.arbitrary()?,
            job_state: *u.choose(&[JobState::Sending, JobState::Finished, JobState::Error])?,
            exit_status: u.arbitrary()?,
            error_reason: u.arbitrary()?,
            dpf_tracker_url: u.arbitrary()?,
        },
        url: SecretUrl::from(String::arbitrary(u)?),
        destination: Destination::from_stored(u.arbitrary()?),
        created_at: time(u)?,
        state: *u.choose(&[
            State::Pending(Readiness::Fresh),
            State::Pending(Readiness::Scheduled(at)),
            State::Pending(Readiness::Blocked(at)),
            State::Delivered(at),
            State::Failed(at),
        ])?,
        attempt_count: u.arbitrary()?,
        budget_attempts: u.arbitrary()?,
        budget_since: time(u)?,
        replays: u.arbitrary()?,
        last_error: optional(u, failure)?,
        last_attempt: optional(u, attempt)?,
        trace: optional(u, trace)?,
    })
}

/// Decodes the bytes as every kind of stored value, and returns the record, if it is one.
fn read(bytes: &[u8]) -> Option<Record> {
    let (record, largest) = largest_of(|| {
        // The last two are laid out as a destination's counters and the store's.
        let _ = decode::<Attempt>(bytes);
        let _ = decode::<CallbackId>(bytes);
        let _ = decode::<[u8; 16]>(bytes);
        let _ = decode::<(Destination, u64, u64, u64, u64, Timestamp)>(bytes);
        let _ = decode::<[u64; 5]>(bytes);
        let _ = decode::<Progress>(bytes);
        decode::<Record>(bytes).ok()
    });
    assert!(largest <= bytes.len() + SLACK, "{} bytes ask for {largest} at once", bytes.len());
    record
}

fuzz_target!(|data: &[u8]| {
    if let Some(read_once) = read(data) {
        let again = read(&encode(&read_once).unwrap());
        assert_eq!(again, Some(read_once));
    }

    let mut u = Unstructured::new(data);
    let Ok(made) = record(&mut u) else { return };
    let mut bytes = encode(&made).unwrap();
    let progress = decode(&encode(&made.progress()).unwrap()).unwrap();
    let accepted = Record { state: State::Pending(Readiness::Fresh), ..made.clone() };
    assert_eq!(accepted.with(Some(progress)), made);
    if let Some(attempt) = &made.last_attempt {
        assert_eq!(&decode::<Attempt>(&encode(attempt).unwrap()).unwrap(), attempt);
    }
    let cut = usize::from(u.arbitrary::<u16>().unwrap_or_default()) % bytes.len();
    if let Some(read) = read(&bytes[..cut]) {
        let earlier = Record { trace: None, ..made.clone() };
        assert_eq!(read, earlier, "cut off after {cut} bytes");
    }
    let whole = read(&bytes);
    assert_eq!(whole.as_ref(), Some(&made));

    while let (false, Ok((at, bits))) = (u.is_empty(), u.arbitrary::<(u16, u8)>()) {
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= bits;
    }
    read(&bytes);
    read(&bytes[..cut]);
});
