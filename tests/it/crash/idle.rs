//! A callback that is accepted at the moment at which its destination becomes idle and is forgotten in
//! memory.

use std::time::{Duration, Instant};

use super::seed;
use crate::support::{PAUSE, Receiver, Service, event, number};

/// Nothing delays a callback, so this is far more than needed, even on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(30);

#[test]
fn an_event_for_a_destination_just_idle_is_sent_at_once() {
    let seed = seed();
    let rounds = number("IDLE_ROUNDS", 100);
    eprintln!("idle: CRASH_SEED={seed} IDLE_ROUNDS={rounds}");
    let service = Service::start("");
    let api = service.api();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (api, service) = (&api, &service);
            scope.spawn(move || {
                let receiver = Receiver::start();
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number));
                for round in 1..=rounds {
                    // The range is from before the outcome is recorded until after everything is forgotten.
                    let begin = Instant::now() + Duration::from_micros(random.u64(..4000));
                    while Instant::now() < begin {
                        std::hint::spin_loop();
                    }
                    let job = format!("{number}-{round}");
                    let id = api.accept(&event("job_sending", &job, &receiver.url("/")));
                    let accepted = Instant::now();
                    while (receiver.count() as u64) < round {
                        let late = accepted.elapsed() > AT_ONCE;
                        assert!(
                            !late,
                            "CRASH_SEED={seed}: {} was not sent, {}, {}",
                            api.callback(&id),
                            api.queue(),
                            service.read("service.log")
                        );
                        std::thread::park_timeout(PAUSE / 10);
                    }
                }
            });
        }
    });
}
