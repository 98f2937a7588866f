//! The clock.
//!
//! Code that depends on the time has a [`Timestamp`] as an argument or reads a [`Clock`]; nothing else
//! in the crate reads the system clock. This way tests can move the time by days.

use std::{
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A moment as milliseconds since 1970-01-01T00:00:00Z, shown as RFC 3339 in UTC with
/// milliseconds (`2026-02-23T18:34:18.230Z`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The last moment that can be shown (9999-12-31T23:59:59.999Z); arithmetic stops here.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// The moment `millis` milliseconds after 1970; clamped to [`Timestamp::MAX`].
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 { Self::MAX } else { Self(millis) }
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Whole minutes since 1970.
    pub const fn minute(self) -> u64 {
        self.0 / 60_000
    }

    /// The moment `by` later; saturates at [`Timestamp::MAX`].
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        Self::from_millis(self.0.saturating_add(by))
    }

    /// The moment `by` earlier; saturates at 1970.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(by))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_millis(self.0);
        humantime::format_rfc3339_millis(time).fmt(f)
    }
}

/// The text was no RFC 3339 time.
#[derive(Debug, thiserror::Error)]
#[error("invalid time `{0}`; expected a time such as 2026-02-23T18:34:18Z")]
pub struct ParseTimestampError(String);

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // RFC 3339 allows lower case.
        let text = &*text.to_ascii_uppercase();
        let parsed = match with_offset(text) {
            Some((local, true, offset)) => parse_utc(local).map(|time| time.before(offset)),
            Some((local, false, offset)) => parse_utc(local).map(|time| time.after(offset)),
            None => parse_utc(text),
        };
        parsed.ok_or_else(|| ParseTimestampError(text.to_owned()))
    }
}

/// The parts of a time with an offset from UTC (RFC 3339): the time there, whether it is east, and by how much.
fn with_offset(text: &str) -> Option<(&str, bool, Duration)> {
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let east = offset.starts_with('+');
    let (hours, minutes) = offset.strip_prefix(['+', '-'])?.split_once(':')?;
    let number = |text: &str, limit: u64| text.parse::<u64>().ok().filter(|number| *number < limit);
    let (hours, minutes) = (number(hours, 24)?, number(minutes, 60)?);
    Some((local, east, Duration::from_mins(60 * hours + minutes)))
}

/// A time in UTC. Those before 1970 are all before anything that is stored.
fn parse_utc(text: &str) -> Option<Timestamp> {
    let year = text.get(..4)?;
    let is_early = year.bytes().all(|digit| digit.is_ascii_digit()) && year < "1970";
    if is_early {
        // A leap year, so that its 29th of February is a day.
        let valid = humantime::parse_rfc3339_weak(&format!("2000{}", text.get(4..)?));
        return valid.is_ok().then(Timestamp::default);
    }
    humantime::parse_rfc3339_weak(text).ok().map(Timestamp::from)
}

/// `None` for what is in JSON as `null`; otherwise RFC 3339 text, in binary formats a number.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self::from_millis)
        }
    }
}

/// A source of the current time.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// The current time. It may jump in both directions, as a machine's clock does.
    fn now(&self) -> Timestamp;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The system clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// A clock that is set explicitly, for tests.
#[derive(Debug, Default)]
pub struct ManualClock(std::sync::atomic::AtomicU64);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self(now.as_millis().into()))
    }

    /// Sets the time, forward or back.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), std::sync::atomic::Ordering::SeqCst);
    }

    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().after(by));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_shown_as_rfc_3339_in_utc_with_milliseconds() {
        let time = Timestamp::from_millis(1_456_252_458_230);
        assert_eq!(time.to_string(), "2016-02-23T18:34:18.230Z");
        assert_eq!("2016-02-23T18:34:18.230Z".parse::<Timestamp>().unwrap(), time);
    }

    #[test]
    fn a_time_may_have_an_offset_from_utc_or_be_older_than_any_callback() {
        let time = |text: &str| text.parse::<Timestamp>().ok().map(|time| time.to_string());
        let found = "2016-02-23T18:34:18.000Z".to_owned();
        assert_eq!(time("2016-02-23T20:04:18+01:30"), Some(found.clone()));
        assert_eq!(time("2016-02-23t18:34:18z"), Some(found.clone()));
        assert_eq!(time("2016-02-23T13:34:18-05:00"), Some(found));
        assert_eq!(time("1969-12-31T23:59:59Z"), Some("1970-01-01T00:00:00.000Z".into()));
        for wrong in
            ["1969-13-31T23:59:59Z", "2016-02-23T20:04:18+24:00", "2016-02-23T20:04:18+0100"]
        {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Timestamp::MAX.after(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::default().before(Duration::MAX), Timestamp::default());
        assert_eq!(Timestamp::default().since(Timestamp::MAX), Duration::ZERO);
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
    }
}
