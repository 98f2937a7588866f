//! A recovered destination begins with one request in flight.

use std::{
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use crate::support::{RawReceiver, Service, event, eventually, read_request};

/// How many requests were in flight when each one arrived, since the receiver works.
#[derive(Default)]
struct Seen {
    works: AtomicBool,
    in_flight: AtomicUsize,
    most: Mutex<Vec<usize>>,
}

#[test]
fn a_destination_that_was_open_gets_twice_as_many_requests_after_each_round() {
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    let receiver = RawReceiver::start(move |mut stream| {
        read_request(&mut stream);
        let works = shared.works.load(SeqCst);
        if works {
            let now = shared.in_flight.fetch_add(1, SeqCst) + 1;
            shared.most.lock().unwrap().push(now);
            // Long enough for all concurrent requests to arrive.
            let end = Instant::now() + Duration::from_millis(150);
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left);
            }
            shared.in_flight.fetch_sub(1, SeqCst);
        }
        let status = if works { "200 OK" } else { "503 No" };
        let response =
            format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        drop(stream.write_all(response.as_bytes()));
    });
    let service = Service::start(
        "[breaker]\nfailures = 2\ninitial_pause = \"100ms\"\nmax_pause = \"100ms\"\n\
         [delivery]\nper_destination = 8\n",
    );
    let api = service.api();
    let lines =
        (0..40).map(|job| format!("{}\n", event("job_sending", &job.to_string(), &receiver.url())));
    api.post_lines(&lines.collect::<String>());
    // Requests that began before it was open would be answered too.
    eventually("it is open, and nothing is in flight", || {
        let all = api.get("/v1/destinations").json();
        let it = &all["destinations"][0];
        (it["state"] == "open" && it["inFlight"] == 0).then_some(())
    });
    seen.works.store(true, SeqCst);
    eventually("all are delivered", || (api.queue()["delivered"] == 40).then_some(()));
    let most = seen.most.lock().unwrap().clone();
    // The probe, then rounds of 1, 2 and 4.
    let within = |range: std::ops::Range<usize>| most[range].iter().copied().max().unwrap();
    assert_eq!([within(0..1), within(1..2)], [1, 1], "{most:?}");
    assert!(within(2..4) <= 2 && within(4..8) <= 4, "{most:?}");
    assert_eq!(within(8..40), 8, "{most:?}");
}
