//! What is taken from a response: status, `Retry-After`, and the beginning of the body.

use std::time::Duration;

use http::{HeaderMap, header};

use crate::clock::Timestamp;

/// The part of a response received so far, in case the deadline passes.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) status: Option<u16>,
    pub(super) peer: Option<String>,
    pub(super) excerpt: Vec<u8>,
    /// Secrets in the request, which a receiver may echo.
    pub(super) secrets: Vec<String>,
    pub(super) retry_after: Option<Duration>,
}

/// The beginning of the response body, without the secrets of the request.
pub(super) fn excerpt(seen: &Seen, max: usize) -> String {
    masked(&String::from_utf8_lossy(&seen.excerpt), &seen.secrets, max)
}

/// The beginning of a text from a peer that was sent these secrets, with the secrets masked. `secrets` has
/// the longest ones first.
pub(super) fn masked(text: &str, secrets: &[String], max: usize) -> String {
    let mut shown = String::new();
    let mut at = 0;
    // Text that begins after the limit is omitted, so that no secret is cut in two.
    while let Some(next) = text[at..].chars().next().filter(|_| at < max) {
        match secrets.iter().find(|secret| text[at..].starts_with(secret.as_str())) {
            Some(secret) => {
                shown.push_str("***");
                at += secret.len();
            }
            None => {
                shown.push(next);
                at += next.len_utf8();
            }
        }
    }
    shown.truncate(shown.floor_char_boundary(max));
    shown
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); `None` if it is missing or invalid. The
/// first valid header is used. A number of seconds may have any number of digits and saturates.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    headers.get_all(header::RETRY_AFTER).iter().find_map(|value| {
        let value = value.to_str().ok()?.trim();
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
        }
        let date = httpdate::parse_http_date(value).or_else(|error| match leap_second(value) {
            Some(second_before) => httpdate::parse_http_date(&second_before),
            None => Err(error),
        });
        Some(Timestamp::from(date.ok()?).since(now))
    })
}

/// A date with a leap second (RFC 9110, 5.6.7), converted to the second before it.
fn leap_second(date: &str) -> Option<String> {
    let at = date.find(":60").filter(|at| date[..*at].contains(':'))?;
    Some(format!("{}:59{}", &date[..at], &date[at + 3..]))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now: Timestamp = "2015-10-21T07:28:00Z".parse().unwrap();
        let requested = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            retry_after(&headers, now)
        };
        assert_eq!(requested("120"), Some(Duration::from_mins(2)));
        assert_eq!(requested("Wed, 21 Oct 2015 07:29:00 GMT"), Some(Duration::from_mins(1)));
        assert_eq!(requested("Wed, 21 Oct 2015 07:27:00 GMT"), Some(Duration::ZERO));
        for broken in ["", "soon", "-1", "+1", "1.5", "1 2", "Wed, 21 Oct 2015 07:60:00 GMT"] {
            assert_eq!(requested(broken), None, "{broken}");
        }
        let longest = Some(Duration::from_secs(u64::MAX));
        assert_eq!(requested("99999999999999999999"), longest);
        assert_eq!(requested(" 0120 "), Some(Duration::from_mins(2)));
        for date in [
            "Wed, 21 Oct 2015 07:28:60 GMT",
            "Wednesday, 21-Oct-15 07:28:60 GMT",
            "Wed Oct 21 07:28:60 2015",
        ] {
            assert_eq!(requested(date), Some(Duration::from_secs(59)), "{date}");
        }
    }

    #[test]
    fn an_excerpt_ends_at_its_limit_where_secrets_are_removed_as_well() {
        let (excerpt, secrets) = (b"secretab".to_vec(), vec!["secret".to_owned()]);
        let seen = Seen { excerpt, secrets, ..Seen::default() };
        assert_eq!([6, 7].map(|max| super::excerpt(&seen, max)), ["***", "***a"]);
    }

    #[test]
    fn the_first_valid_retry_after_counts() {
        let mut headers = HeaderMap::new();
        for value in ["soon", "7", "9"] {
            headers.append(header::RETRY_AFTER, HeaderValue::from_static(value));
        }
        headers.append(header::RETRY_AFTER, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(retry_after(&headers, Timestamp::default()), Some(Duration::from_secs(7)));
    }
}
