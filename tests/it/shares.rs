//! How destinations affect each other (`delivery::schedule::shares`).

use std::time::{Duration, Instant};

use crate::support::{Answer, Receiver, Service, event, eventually};

/// This many events of different jobs for each of these receivers.
fn lines(of: &str, receivers: &[Receiver], each: usize) -> String {
    let mut lines = String::new();
    for (at, receiver) in receivers.iter().enumerate() {
        for job in 0..each {
            let job = format!("{of}-{at}-{job}");
            lines += &(event("job_sending", &job, &receiver.url("/")).to_string() + "\n");
        }
    }
    lines
}

fn receivers(count: usize, last: &Answer) -> Vec<Receiver> {
    (0..count).map(|_| Receiver::answering(vec![], last.clone())).collect()
}

/// Submits callbacks for a receiver that responds, one after the other, and returns the longest time
/// that a callback took.
fn longest(service: &Service, good: &Receiver, count: usize) -> Duration {
    let api = service.api();
    let took = (0..count).map(|job| {
        let begin = Instant::now();
        let before = good.count();
        api.accept(&event("job_sending", &format!("good-{job}"), &good.url("/")));
        good.wait_for(before + 1);
        begin.elapsed()
    });
    took.max().unwrap()
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn slow_destinations_leave_slots_to_new_and_fast_ones() {
    let service = Service::start("delivery.concurrency = 64\ndelivery.timeout = \"2m\"");
    let slow = receivers(10, &Answer::Wait);
    let good = Receiver::start();
    service.api().post_lines(&lines("slow", &slow, 50));
    let under_way = || slow.iter().map(Receiver::count).sum::<usize>();
    // They get the share of their level.
    eventually("they have their share", || (under_way() >= 48).then_some(()));
    assert!(longest(&service, &good, 20) < PATIENCE);
    assert_eq!(under_way(), 48);
    slow.iter().for_each(Receiver::open);
}

#[test]
fn fast_destinations_that_stall_at_once_do_not_take_all_slots() {
    let service = Service::start("delivery.concurrency = 64\ndelivery.timeout = \"2m\"");
    let answers = vec![Answer::Status(200); 20];
    let stalling: Vec<_> =
        (0..10).map(|_| Receiver::answering(answers.clone(), Answer::Wait)).collect();
    let good = Receiver::start();
    service.api().post_lines(&lines("warm", &stalling, 20));
    let api = service.api();
    eventually("they are quick", || (api.queue()["pending"] == 0).then_some(()));
    service.api().post_lines(&lines("stall", &stalling, 50));
    stalling.iter().for_each(|it| drop(it.wait_for(21)));
    assert!(longest(&service, &good, 20) < PATIENCE);
    stalling.iter().for_each(Receiver::open);
    eventually("all are delivered", || (api.queue()["pending"] == 0).then_some(()));
}

#[test]
fn hanging_new_destinations_leave_slots_to_others() {
    let service = Service::start("delivery.concurrency = 16\ndelivery.timeout = \"2m\"");
    let good = Receiver::start();
    assert!(longest(&service, &good, 3) < PATIENCE);
    let hanging = receivers(20, &Answer::Wait);
    service.api().post_lines(&lines("hang", &hanging, 5));
    let under_way = || hanging.iter().map(Receiver::count).sum::<usize>();
    eventually("they have their share", || (under_way() >= 14).then_some(()));
    assert!(longest(&service, &good, 20) < PATIENCE);
    assert_eq!(under_way(), 14);
    hanging.iter().for_each(Receiver::open);
}

#[test]
fn a_destination_at_its_limit_gets_slots_that_another_one_frees() {
    // After a second, a destination that hangs is at another level, without this limit. On a busy
    // machine a round may take so long.
    const SOON: Duration = Duration::from_millis(900);
    let service = Service::start("delivery.concurrency = 8\ndelivery.per_destination = 8");
    let round = |round: u8| {
        let hanging = receivers(2, &Answer::Wait);
        let [first, second] = &hanging[..] else { unreachable!() };
        let send = |of: &str, to: &Receiver| {
            let lines =
                (0..8).map(|job| event("job_sending", &format!("{of}{round}-{job}"), &to.url("/")));
            service.api().post_lines(&lines.map(|it| it.to_string() + "\n").collect::<String>());
        };
        send("first", first);
        first.wait_for(4);
        send("second", second);
        let begin = second.wait_for(2)[0].at;
        eventually("a new one is considered", || (begin.elapsed() > SOON / 4).then_some(()));
        assert!(begin.elapsed() > SOON || second.count() == 2, "half of the slots are taken");
        first.open();
        let third = second.wait_for(4)[2].at;
        second.open();
        eventually("all are delivered", || (service.api().queue()["pending"] == 0).then_some(()));
        third - begin < SOON
    };
    assert!((0..10).any(round));
}
