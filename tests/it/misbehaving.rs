//! Receivers that misbehave: each costs one limited attempt, whose error describes the problem.

use std::{
    io::Write as _,
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

use crate::support::{Answer, RawReceiver, Receiver, Service, event, eventually, read_request};

/// A service with a time-out of one second, whose next attempt is long after the test.
fn service() -> Service {
    Service::start(
        "delivery.timeout = \"1s\"\ndelivery.connect_timeout = \"1s\"\n\
         retry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"",
    )
}

/// The only attempt to this receiver.
fn attempt(service: &Service, url: &str) -> Value {
    let api = service.api();
    let id = api.accept(&event("job_sending", url, url));
    let callback = eventually("the attempt has ended", || {
        Some(api.callback(&id)).filter(|it| it["attemptCount"] != 0)
    });
    assert_eq!(callback["attemptCount"], 1, "{callback}");
    callback["attempts"][0].clone()
}

/// Asserts the kind and the message of that attempt's error.
fn fails(service: &Service, receiver: &RawReceiver, kind: &str, says: &str) -> Value {
    let attempt = attempt(service, &receiver.url());
    let error = &attempt["error"];
    let message = error["message"].as_str().unwrap_or_default();
    println!("{kind}: {message}");
    assert!(error["kind"] == kind && message.contains(says), "{says}: {attempt}");
    error.clone()
}

/// Writes repeatedly until the peer closes the connection.
fn for_ever(stream: &mut TcpStream, bytes: &[u8]) {
    while stream.write_all(bytes).is_ok() {}
}

/// The same, in small pieces.
fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    while stream.write_all(bytes).is_ok() {
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

#[test]
fn endless_headers_are_cut_off() {
    let receiver = RawReceiver::start(|mut stream| {
        read_request(&mut stream);
        drop(stream.write_all(OK));
        for_ever(&mut stream, b"x-more: and more and more and more\r\n");
    });
    fails(&service(), &receiver, "body", "the response head is too long");
}

#[test]
fn an_endless_header_is_cut_off() {
    let receiver = RawReceiver::start(|mut stream| {
        read_request(&mut stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nx-more: "));
        for_ever(&mut stream, &[b'x'; 4096]);
    });
    fails(&service(), &receiver, "body", "the response head is too long");
}

#[test]
fn endless_interim_responses_end_at_the_deadline() {
    let receiver = RawReceiver::start(|mut stream| {
        read_request(&mut stream);
        for_ever(&mut stream, b"HTTP/1.1 102 Processing\r\n\r\n");
    });
    fails(&service(), &receiver, "timeout", "no response within 1s");
}

#[test]
fn a_slow_head_ends_at_the_deadline() {
    let receiver = RawReceiver::start(|mut stream| {
        read_request(&mut stream);
        drop(stream.write_all(OK));
        drip(&mut stream, b"x");
    });
    fails(&service(), &receiver, "timeout", "no response within 1s");
}

#[test]
fn a_slow_body_ends_at_the_deadline() {
    let receiver = RawReceiver::start(|mut stream| {
        read_request(&mut stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"));
        drip(&mut stream, b"x");
    });
    fails(&service(), &receiver, "timeout", "the response body was not complete within 1s");
}

#[test]
fn a_huge_body_is_not_read() {
    let receiver = RawReceiver::start(|mut stream| {
        read_request(&mut stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"));
        for_ever(&mut stream, &[b'x'; 8192]);
    });
    fails(&service(), &receiver, "body", "the response body is longer than 65536 bytes");
}

#[test]
fn a_body_of_the_maximum_length_is_read() {
    let receiver = Receiver::answering(vec![], Answer::Body(200, vec![b'x'; 65_536]));
    let attempt = attempt(&service(), &receiver.url("/"));
    assert_eq!((&attempt["status"], &attempt["error"]), (&200.into(), &Value::Null), "{attempt}");
}

#[test]
fn endless_chunks_are_not_read() {
    let receiver = RawReceiver::start(|mut stream| {
        read_request(&mut stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"));
        for_ever(&mut stream, b"4\r\nmore\r\n");
    });
    // While other tests run, it may take more than a second to read this many parts.
    let service = Service::start("retry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"");
    fails(&service, &receiver, "body", "the response body is longer than 65536 bytes");
}

#[test]
fn endless_trailers_are_cut_off() {
    let receiver = RawReceiver::start(|mut stream| {
        read_request(&mut stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"));
        for_ever(&mut stream, b"x-more: and more and more and more\r\n");
    });
    fails(&service(), &receiver, "body", "trailer");
}

#[test]
fn compressed_bodies_are_not_decompressed() {
    // Only a gzip header, so that decompression would fail.
    let mut answer =
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 10\r\n\r\n".to_vec();
    answer.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    let receiver = RawReceiver::answering(answer);
    let attempt = attempt(&service(), &receiver.url());
    assert_eq!((&attempt["status"], &attempt["error"]), (&200.into(), &Value::Null), "{attempt}");
}

#[test]
fn requests_have_no_accept_encoding_and_no_cookies() {
    let cookie = Answer::With(200, vec![("set-cookie", "a=b; Path=/".into())]);
    let (service, receiver) = (service(), Receiver::answering(vec![], cookie));
    for job in ["1", "2"] {
        let id = service.api().accept(&event("job_sending", job, &receiver.url("/")));
        service.api().wait_for_state(&id, "delivered");
    }
    for put in receiver.puts() {
        assert_eq!((put.header("accept-encoding"), put.header("cookie")), ("", ""));
    }
}

#[test]
fn closing_before_and_within_a_response_are_distinguished() {
    let service = service();
    let before = RawReceiver::answering("");
    fails(&service, &before, "connect", "closed the connection before it responded");
    let within_head = RawReceiver::answering("HTTP/1.1 200 OK\r\nx-half: ");
    let error =
        fails(&service, &within_head, "connect", "closed the connection before it responded");
    assert_eq!(error["status"], Value::Null);
    let body = RawReceiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
    let within_body = "closed the connection before the response body was complete";
    assert_eq!(fails(&service, &body, "body", within_body)["status"], 200);
    let chunk =
        RawReceiver::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n100\r\nhalf");
    assert_eq!(fails(&service, &chunk, "body", within_body)["status"], 200);
}

#[test]
fn a_body_that_ends_with_the_connection_is_complete() {
    let receiver = RawReceiver::answering("HTTP/1.1 200 OK\r\n\r\nall of it");
    let attempt = attempt(&service(), &receiver.url());
    assert_eq!(
        (&attempt["error"], &attempt["responseExcerpt"]),
        (&Value::Null, &"all of it".into())
    );
}

#[test]
fn other_protocols_are_distinguished() {
    let service = service();
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"220 mail.example ESMTP\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"200 OK\r\n\r\n",
        b"HTTP/1.1 99999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    ] {
        fails(&service, &RawReceiver::answering(bytes), "body", "the response is not HTTP: ");
    }
    let chunk = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno number\r\n";
    fails(&service, &RawReceiver::answering(*chunk), "body", "chunk");
}

#[test]
fn a_receiver_that_never_reads_or_responds_ends_at_the_deadline() {
    let service = service();
    let silent = RawReceiver::start(|mut stream| {
        read_request(&mut stream);
        std::thread::park_timeout(crate::support::DEADLINE);
        drop(stream);
    });
    fails(&service, &silent, "timeout", "no response within 1s");
    let deaf = RawReceiver::start(|stream| {
        std::thread::park_timeout(crate::support::DEADLINE);
        drop(stream);
    });
    fails(&service, &deaf, "timeout", "no response within 1s");
}

#[test]
fn an_early_response_counts() {
    let early = RawReceiver::start(|mut stream| {
        // The receiver responds before it reads any of the request.
        drop(stream.peek(&mut [0]));
        drop(stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"));
        drop(stream.shutdown(Shutdown::Write));
        read_request(&mut stream);
    });
    let attempt = attempt(&service(), &early.url());
    assert_eq!(
        (&attempt["status"], &attempt["error"]["kind"]),
        (&503.into(), &"status".into()),
        "{attempt}"
    );
}

#[test]
fn an_unknown_error_status_is_retried() {
    let service = Service::start("");
    let api = service.api();
    for (status, kind) in
        [("199", "connect"), ("306", "status"), ("599", "status"), ("999", "status")]
    {
        let connections = AtomicUsize::new(0);
        let receiver = RawReceiver::start(move |mut stream| {
            read_request(&mut stream);
            let first = connections.fetch_add(1, Ordering::SeqCst) == 0;
            let status = if first { status } else { "200" };
            let answer =
                format!("HTTP/1.1 {status} Odd\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            drop(stream.write_all(answer.as_bytes()));
        });
        let id = api.accept(&event("job_sending", status, &receiver.url()));
        let callback = api.wait_for_state(&id, "delivered");
        assert_eq!(callback["attemptCount"], 2, "{callback}");
        assert_eq!(callback["attempts"][0]["error"]["kind"], kind, "{callback}");
    }
}

#[test]
fn an_unknown_2xx_is_a_success() {
    let receiver = RawReceiver::answering(
        *b"HTTP/1.1 299 Odd\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    let service = service();
    let id = service.api().accept(&event("job_sending", "1", &receiver.url()));
    let callback = service.api().wait_for_state(&id, "delivered");
    assert_eq!(callback["attempts"][0]["status"], 299, "{callback}");
}

#[test]
fn a_stored_response_is_limited_and_not_interpreted() {
    let body = "<script>alert(1)</script>\u{1b}[2J".repeat(100);
    let receiver = Receiver::answering(vec![], Answer::Body(200, body.clone().into_bytes()));
    let attempt = attempt(&service(), &receiver.url("/"));
    let excerpt = attempt["responseExcerpt"].as_str().unwrap();
    assert!(body.starts_with(excerpt) && (1000..=1024).contains(&excerpt.len()));
}
