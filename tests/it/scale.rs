//! Very many of something. The long ones: `cargo test --release --test it -- --ignored scale_`.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use serde_json::Value;

use crate::support::{Receiver, Service, event, eventually};

/// Counts callbacks on every address of the loopback range, and answers 200.
fn everywhere() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            // A thread for each connection would be the receiver's limit, not the service's.
            let serve = move || {
                let mut buffer = [0; 4096];
                let mut request = Vec::new();
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    request.extend_from_slice(&buffer[..n]);
                    if request.ends_with(b"}") {
                        let close = request.windows(17).any(|it| it == b"connection: close");
                        counted.fetch_add(1, SeqCst);
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
    (port, count)
}

fn batches(count: usize, line: impl Fn(usize) -> Value) -> impl Iterator<Item = String> {
    const STEP: usize = 10_000;
    (0..count).step_by(STEP).map(move |from| {
        (from..(from + STEP).min(count)).map(|n| line(n).to_string() + "\n").collect()
    })
}

/// One callback to each of so many destinations, with 1,024 open files.
fn one_to_each_destination(destinations: usize) {
    let (port, received) = everywhere();
    let mut service = Service::prepare("delivery.timeout = \"120s\"");
    service.serve_by(&["sh", "-c", "ulimit -n 1024 && exec \"$0\" serve"]);
    let api = service.api();
    let to = |n: usize| format!("http://127.{}.{}.{}:{port}/", n >> 16, n >> 8 & 255, n & 255);
    let line = |n: usize| event("job_sending", &n.to_string(), &to(n + 65_537));
    for batch in batches(destinations, line) {
        api.post_lines(&batch);
    }
    eventually("all are delivered", || (api.queue()["delivered"] == destinations).then_some(()));
    assert_eq!(received.load(SeqCst), destinations, "each came once");
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

/// So many callbacks of one job, which have to go out one by one.
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
fn hundreds_of_callbacks_of_one_job_go_out_one_by_one_in_order() {
    one_job(500);
}

#[test]
#[ignore = "long: cargo test --release --test it -- --ignored scale_"]
fn scale_ten_thousand_callbacks_of_one_job() {
    one_job(10_000);
}

#[test]
#[ignore = "long: cargo test --release --test it -- --ignored scale_"]
fn scale_a_million_callbacks_for_a_destination_that_is_down_cost_the_others_nothing() {
    const MILLION: usize = 1_000_000;
    let (mut service, good) = (Service::start(""), Receiver::start());
    let api = service.api();
    let down = |n: usize| event("job_sending", &n.to_string(), "http://127.0.0.1:1/");
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
    let queue = service.api().queue();
    assert_eq!(queue["pending"], MILLION);
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let memory = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    println!("with a million pending, after a restart: {memory}");
}
