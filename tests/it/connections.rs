//! Connections to receivers: kept, closed by the other side, given up.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use crate::support::{RawReceiver, Service, event, read_request};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A receiver that answers the first request of each connection and does `then` with the second one.
fn closing(
    then: impl Fn(&mut TcpStream) + Send + Sync + 'static,
) -> (RawReceiver, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let receiver = RawReceiver::start(move |mut stream| {
        counted.fetch_add(1, SeqCst);
        if read_request(&mut stream).is_empty() {
            return;
        }
        drop(stream.write_all(OK));
        then(&mut stream);
    });
    (receiver, connections)
}

#[test]
fn a_kept_connection_that_closes_in_the_moment_it_is_used_costs_no_attempt() {
    // Closed after the request was read, and reset with the request unread.
    let read = |stream: &mut TcpStream| drop(read_request(stream));
    let unread = |stream: &mut TcpStream| drop(stream.peek(&mut [0]));
    for (receiver, connections) in [closing(read), closing(unread)] {
        let service = Service::start("retry.max_attempts = 1");
        let api = service.api();
        for job in 0..6 {
            let id = api.accept(&event("job_sending", &job.to_string(), &receiver.url()));
            let callback = api.wait_for_state(&id, "delivered");
            assert_eq!(callback["attemptCount"], 1);
        }
        assert!(connections.load(SeqCst) >= 6, "each kept connection was closed");
    }
}

#[test]
fn a_new_connection_that_closes_without_an_answer_is_a_failed_attempt_and_no_second_try() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let receiver = RawReceiver::start(move |mut stream| {
        counted.fetch_add(1, SeqCst);
        read_request(&mut stream);
    });
    let service = Service::start("retry.max_attempts = 3");
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &receiver.url()));
    let callback = api.wait_for_state(&id, "failed");
    assert_eq!(callback["attempts"][0]["error"]["kind"], "connect");
    assert_eq!((callback["attemptCount"].as_u64(), connections.load(SeqCst)), (Some(3), 3));
}

/// A connection that was kept is closed, and so is the new one: that is one failed attempt.
#[test]
fn a_request_goes_out_a_second_time_once() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let receiver = RawReceiver::start(move |mut stream| {
        let first = counted.fetch_add(1, SeqCst) == 0;
        read_request(&mut stream);
        if first {
            drop(stream.write_all(OK));
            read_request(&mut stream);
        }
    });
    let service = Service::start("retry.max_attempts = 1");
    let api = service.api();
    let first = api.accept(&event("job_sending", "1", &receiver.url()));
    api.wait_for_state(&first, "delivered");
    let second = api.accept(&event("job_sending", "2", &receiver.url()));
    let callback = api.wait_for_state(&second, "failed");
    assert_eq!((callback["attemptCount"].as_u64(), connections.load(SeqCst)), (Some(1), 2));
}
