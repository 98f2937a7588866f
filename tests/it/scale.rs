//! Large numbers. The long runs: `cargo test --release --test it -- --ignored scale_`.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
};

use serde_json::Value;

use crate::support::{Receiver, Service, event, eventually};

/// How often the callback of each job was received.
type Counts = Arc<Vec<AtomicU8>>;

/// Counts callbacks, and answers 200.
fn counting(listener: TcpListener, jobs: usize) -> Counts {
    let counts: Counts = Arc::new((0..jobs).map(|_| AtomicU8::new(0)).collect());
    let counted = Arc::clone(&counts);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            // A thread for each connection would make the receiver the bottleneck.
            let serve = move || {
                let mut buffer = [0; 4096];
                let mut request = Vec::new();
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    request.extend_from_slice(&buffer[..n]);
                    if request.ends_with(b"}") {
                        let close = request.windows(17).any(|it| it == b"connection: close");
                        counted[job(&request)].fetch_add(1, SeqCst);
                        request.clear();
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        if stream.write_all(answer).is_err() || close {
                            return;
                        }
                    }
                }
            };
            std::thread::spawn(serve);
        }
    });
    counts
}

/// The `jobId` of a request as a number.
fn job(request: &[u8]) -> usize {
    const NAME: &[u8] = b"\"jobId\":\"";
    let at = request.windows(NAME.len()).position(|it| it == NAME).unwrap() + NAME.len();
    let digits = request[at..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

fn assert_each_came_once(counts: &Counts) {
    let others = counts.iter().enumerate().filter(|(_, count)| count.load(SeqCst) != 1);
    let others: Vec<_> = others.take(10).collect();
    assert!(others.is_empty(), "not once came {others:?}");
}

fn batches(count: usize, line: impl Fn(usize) -> Value) -> impl Iterator<Item = String> {
    const STEP: usize = 10_000;
    (0..count).step_by(STEP).map(move |from| {
        (from..(from + STEP).min(count)).map(|n| line(n).to_string() + "\n").collect()
    })
}

/// One callback to each of many destinations, with 1,024 open files.
fn one_to_each_destination(destinations: usize) {
    // One destination on each address of the loopback range.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = counting(listener, destinations);
    let mut service = Service::prepare("delivery.timeout = \"120s\"");
    service.serve_by(&["sh", "-c", "ulimit -n 1024 && exec \"$0\" serve"]);
    let api = service.api();
    let to = |n: usize| format!("http://127.{}.{}.{}:{port}/", n >> 16, n >> 8 & 255, n & 255);
    let line = |n: usize| event("job_sending", &n.to_string(), &to(n + 65_537));
    for batch in batches(destinations, line) {
        api.post_lines(&batch);
    }
    eventually("all are delivered", || (api.queue()["delivered"] == destinations).then_some(()));
    assert_each_came_once(&received);
}

#[test]
fn thousands_of_destinations_are_served_with_a_thousand_open_files() {
    one_to_each_destination(3_000);
}

#[test]
#[ignore = "long: cargo test --release --test it -- --ignored scale_"]
fn scale_a_hundred_thousand_destinations_with_one_callback_each() {
    one_to_each_destination(100_000);
}

/// Many callbacks of one job, which have to be sent one by one.
fn one_job(callbacks: usize) {
    let (service, receiver) = (Service::start(""), Receiver::start());
    let api = service.api();
    let line = |n: usize| {
        let mut event = event("job_sending", "one", &receiver.url("/"));
        event["jobIdFs"] = n.to_string().into();
        event
    };
    for batch in batches(callbacks, line) {
        api.post_lines(&batch);
    }
    eventually("all are delivered", || (api.queue()["delivered"] == callbacks).then_some(()));
    let order: Vec<_> = receiver
        .puts()
        .iter()
        .map(|put| put.json()["jobIdFs"].as_str().unwrap().parse::<usize>().unwrap())
        .collect();
    assert_eq!(order, (0..callbacks).collect::<Vec<_>>());
    assert_eq!(receiver.most_at_once(), 1);
}

#[test]
fn hundreds_of_callbacks_of_one_job_are_sent_in_order() {
    one_job(500);
}

#[test]
#[ignore = "long: cargo test --release --test it -- --ignored scale_"]
fn scale_ten_thousand_callbacks_of_one_job() {
    one_job(10_000);
}

#[test]
#[ignore = "long: cargo test --release --test it -- --ignored scale_"]
fn scale_a_million_callbacks_for_a_destination_that_is_down() {
    const MILLION: usize = 1_000_000;
    let (mut service, good) = (Service::start(""), Receiver::start());
    let api = service.api();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = |n: usize| event("job_sending", &n.to_string(), &format!("http://{address}/"));
    for batch in batches(MILLION, down) {
        api.post_lines(&batch);
    }
    let deliver = |service: &Service, job: &str| {
        let id = service.api().accept(&event("job_finished", job, &good.url("/")));
        service.api().wait_for_state(&id, "delivered");
    };
    deliver(&service, "before");
    service.kill();
    service.serve();
    deliver(&service, "after");
    assert_eq!(service.api().queue()["pending"], MILLION);
    let received = counting(TcpListener::bind(address).unwrap(), MILLION);
    for tenth in 1..=10 {
        let so_many = MILLION / 10 * tenth;
        eventually("they are delivered", || {
            (service.api().queue()["delivered"].as_u64().unwrap() >= so_many as u64).then_some(())
        });
    }
    eventually("the last is delivered", || (service.api().queue()["pending"] == 0).then_some(()));
    assert_each_came_once(&received);
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let memory = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    println!("with a million pending, and after they were delivered: {memory}");
}
