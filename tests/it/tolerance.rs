//! Unusual responses: only status and `Retry-After` are interpreted, so nothing else may turn a success into
//! a failure.

use std::time::Duration;

use seal_dpf_urlcallback::clock::Timestamp;
use serde_json::Value;

use crate::support::{RawReceiver, Service, event, eventually};

/// The only attempt to a receiver that responds with these bytes, and the resulting callback.
fn answered(service: &Service, answer: impl Into<Vec<u8>>) -> Value {
    let receiver = RawReceiver::answering(answer);
    let api = service.api();
    let id = api.accept(&event("job_sending", &receiver.url(), &receiver.url()));
    eventually("the attempt has ended", || {
        Some(api.callback(&id)).filter(|it| it["attemptCount"] != 0)
    })
}

fn service() -> Service {
    Service::start("retry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"")
}

/// Each with whatever the status is.
const ODD: [&[u8]; 11] = [
    b"x-a: 1\r\n 2\r\n",
    b"x-a: 1\r\n\t2\r\n  3\r\nx-b: 4\r\n",
    b"x-a : 1\r\n",
    b"x-a\t: 1\r\n",
    b"x-a: 1\x012\r\n",
    b"x-a: \xfc\xe9\r\n",
    b"x a: 1\r\n",
    b"x-a\r\n",
    b": 1\r\n",
    b"x-a: 1\n",
    b"x-\xe9: 1\r\n",
];

#[test]
fn an_unusual_header_does_not_change_the_outcome() {
    let service = service();
    for odd in ODD {
        for (status, state) in [("200 OK", "delivered"), ("410 Gone", "failed")] {
            for version in ["1.1", "1.0"] {
                let head = format!("HTTP/{version} {status}\r\ncontent-length: 0\r\n");
                let answer = [head.as_bytes(), odd, b"\r\n"].concat();
                let callback = answered(&service, answer);
                let what = String::from_utf8_lossy(odd);
                assert_eq!(callback["state"], state, "{what:?} HTTP/{version}: {callback}");
            }
        }
    }
}

#[test]
fn an_unusual_header_does_not_hide_retry_after() {
    // Without it, the next attempt would be a second away.
    let service = Service::start("retry.initial_interval = \"1s\"\nretry.max_interval = \"1s\"");
    for odd in ODD {
        let head = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nretry-after: 3000\r\n";
        let callback = answered(&service, [head, odd, b"\r\n"].concat());
        let time = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
        let due = time(&callback["nextAttemptAt"]);
        let asked = due.since(time(&callback["attempts"][0]["startedAt"]));
        assert!(asked >= Duration::from_secs(3000), "{odd:?}: {asked:?} {callback}");
    }
}

#[test]
fn a_status_line_without_reason_and_bare_line_feeds_are_accepted() {
    let service = service();
    for answer in [
        "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\n\n",
        "HTTP/1.0 200 OK\n\nand a body until the end",
        "HTTP/1.1 200 \u{e9}\r\ncontent-length: 0\r\n\r\n",
    ] {
        assert_eq!(answered(&service, answer)["state"], "delivered", "{answer:?}");
    }
}

#[test]
fn a_response_may_have_a_hundred_headers() {
    let service = service();
    for (headers, state) in [(99, "delivered"), (100, "pending")] {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n".to_owned();
        let answer = head + &"x: y\r\n".repeat(headers) + "\r\n";
        let callback = answered(&service, answer);
        assert_eq!(callback["state"], state, "{headers}: {callback}");
    }
}
