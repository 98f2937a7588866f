//! `Retry-After`: any bytes give a pause or none; a number of seconds and a date in today's
//! form give exactly what a second reading of them gives; and whatever a receiver asks for, the
//! next attempt is neither before the time it asked for nor beyond what the settings allow.

#![no_main]

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
use libfuzzer_sys::fuzz_target;
use seal_dpf_urlcallback::{
    callback::{Body, CallbackId, Destination, JobState},
    clock::Timestamp,
    delivery::{
        outcome::{Outcome, Verdict},
        retry::Settings,
        send::response::retry_after,
    },
    outbox::{Attempt, ErrorKind, Failure, Readiness, Record, Settlement, State},
};

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970 (RFC 9110, 5.6.7).
fn date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|it| it.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?
    };
    let marks = [(3, ", "), (7, " "), (11, " "), (16, " "), (19, ":"), (22, ":"), (25, " GMT")];
    if text.len() != 29 || marks.iter().any(|(at, it)| text.get(*at..at + it.len()) != Some(it)) {
        return None;
    }
    let month = MONTHS.iter().position(|it| text.get(8..11) == Some(it))?;
    let (day, year) = (number(5, 7)?, number(12, 16)?);
    let (hour, minute, second) = (number(17, 19)?, number(20, 22)?, number(23, 25)?);
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if year < 1970 || day == 0 || day > lengths[month] || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = (1970..year).map(|it| if leap(it) { 366 } else { 365 }).sum::<u64>()
        + lengths[..month].iter().sum::<u64>()
        + day
        - 1;
    let right_day = text.get(..3) == Some(DAYS[usize::try_from(days % 7).ok()?]);
    right_day.then_some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn record(accepted: Timestamp) -> Record {
    Record {
        id: CallbackId::from_u128(1),
        event_id: None,
        body: Body {
            job_id: "1".into(),
            job_id_fs: "2".into(),
            job_state: JobState::Sending,
            exit_status: None,
            error_reason: None,
            dpf_tracker_url: None,
        },
        url: "http://h/".to_owned().into(),
        destination: Destination::none(),
        created_at: accepted,
        state: State::Pending(Readiness::Fresh),
        attempt_count: 0,
        budget_attempts: 0,
        budget_since: accepted,
        replays: 0,
        last_error: None,
        last_attempt: None,
        trace: None,
    }
}

fn outcome(status: u16, retry_after: Option<Duration>) -> Outcome {
    let error = Failure { status: Some(status), ..Failure::new(ErrorKind::Status, "no") };
    Outcome {
        attempt: Attempt {
            number: 1,
            started_at: Timestamp::default(),
            duration_ms: 1,
            status: Some(status),
            error: Some(error),
            peer: None,
            response_excerpt: None,
        },
        verdict: Verdict::Transient,
        retry_after,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(RETRY_AFTER, value);
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    for now in [0, 784_111_776_500, 1_456_252_458_230, Timestamp::MAX.as_millis()] {
        let now = Timestamp::from_millis(now);
        let asked = retry_after(&headers, now);
        let digits = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        if digits {
            // What is too long for 64 bits is the longest pause there is.
            assert_eq!(asked, Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX))));
        } else if let Some(date) = date(text) {
            let date = Duration::from_secs(date);
            let expected = date.saturating_sub(Duration::from_millis(now.as_millis()));
            assert_eq!(asked, Some(expected));
        }

        let settings = Settings::default();
        let end = now.after(settings.max_age);
        for status in [429, 500, 503] {
            let mut random = fastrand::Rng::with_seed(bytes.len() as u64);
            let settlement =
                settings.decide(&record(now), outcome(status, asked), now, &mut random);
            let obeyed = asked.map(|it| it.min(settings.max_retry_after));
            match settlement {
                Settlement::Retry { due, hold, .. } => {
                    let earliest = now.after(obeyed.unwrap_or_default());
                    assert!((earliest..=end).contains(&due), "{due} for {asked:?} at {now}");
                    let held = obeyed.filter(|_| status != 500).map(|it| now.after(it));
                    assert_eq!(hold, held);
                }
                // At the end of time every age is over.
                Settlement::Failed { .. } => assert_eq!(now, end),
                other => panic!("{other:?}"),
            }
        }
    }
});
