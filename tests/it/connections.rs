//! Connections to receivers: kept alive, closed by the receiver, renewed.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::support::{RawReceiver, Receiver, Service, event, read_request};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A receiver that responds to the first request of each connection and runs `then` for the second one.
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
fn a_closed_kept_alive_connection_costs_no_attempt() {
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

/// Through a proxy, the name of the receiver is looked up here as well, and that opens no connection.
#[test]
fn a_closed_kept_alive_connection_to_a_proxy_costs_no_attempt() {
    let (proxy, connections) = closing(|stream| drop(read_request(stream)));
    let settings = format!("retry.max_attempts = 1\negress.proxy = \"{}\"", proxy.url());
    let service = Service::start(&settings);
    let api = service.api();
    for job in 0..6 {
        let id = api.accept(&event("job_sending", &job.to_string(), "http://localhost:1/"));
        let callback = api.wait_for_state(&id, "delivered");
        assert_eq!(callback["attemptCount"], 1);
    }
    assert!(connections.load(SeqCst) >= 6, "each kept connection was closed");
}

#[test]
fn a_closed_new_connection_is_a_failed_attempt() {
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

/// A kept connection is closed, and so is the new one: this is one failed attempt.
#[test]
fn a_request_is_repeated_once_at_most() {
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

/// When a connection stops responding, all connections to its destination are replaced, and no others.
#[tokio::test]
async fn connections_are_renewed_by_destination_once_in_a_pause() {
    use seal_dpf_urlcallback::{callback::Destination, config::Config};
    const LONG: Duration = Duration::from_secs(600);
    let clients = Config::defaults().unwrap().means().unwrap().clients;
    let receivers = [Receiver::start(), Receiver::start()];
    let targets = receivers.each_ref().map(|receiver| {
        let url = url::Url::parse(&receiver.url("/")).unwrap();
        let destination = Destination::parse(&receiver.url("")).unwrap();
        (url, destination)
    });
    let put = async |(url, destination): &(url::Url, Destination)| {
        let client = clients.of(url, destination).unwrap();
        let answer = client.put(url.clone()).send().await.unwrap();
        answer.bytes().await.unwrap();
    };
    let connections = || receivers.each_ref().map(Receiver::connections);
    let rounds = [
        // Without a renewal, the existing connection is reused.
        (None, [1, 1]),
        (None, [1, 1]),
        (Some((0, LONG)), [2, 1]),
        (None, [2, 1]),
        // A second renewal within the pause has no effect, even if another one was renewed in between.
        (Some((0, LONG)), [2, 1]),
        (Some((1, LONG)), [2, 2]),
        (Some((0, LONG)), [2, 2]),
        (Some((0, Duration::ZERO)), [3, 2]),
        (None, [3, 2]),
    ];
    for (round, (renewed, expected)) in rounds.into_iter().enumerate() {
        if let Some((which, pause)) = renewed {
            let (url, destination) = &targets[which];
            clients.renew(url, destination, pause).unwrap();
        }
        for target in &targets {
            put(target).await;
        }
        assert_eq!(connections(), expected, "round {round}");
    }
}
