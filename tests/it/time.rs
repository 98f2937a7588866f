//! Jumps of the system clock (the rules are in `delivery::jumps`).

use std::{fs, net::TcpListener};

use serde_json::Value;

use crate::support::{Answer, Receiver, Service, event, eventually, preloaded};

const DAY: i64 = 86_400;
const HOUR: i64 = 3600;

/// A service whose clock can be set.
struct Clocked(Service);

impl Clocked {
    fn prepare(settings: &str) -> Self {
        let service = Service::prepare(settings);
        let clocked = Self(service);
        clocked.set(0);
        clocked
    }

    fn serve(&mut self) {
        let ahead = self.0.path("ahead");
        let env = [
            ("LD_PRELOAD", preloaded("clock.c")),
            ("CLOCK_AHEAD", ahead.to_str().unwrap().to_owned()),
        ];
        self.0.serve_with(&env.each_ref().map(|(name, value)| (*name, value.as_str())));
    }

    /// Sets the clock this many seconds ahead of (or, if negative, behind) the machine's.
    fn set(&self, ahead: i64) {
        fs::write(self.0.path("ahead.new"), ahead.to_string()).unwrap();
        fs::rename(self.0.path("ahead.new"), self.0.path("ahead")).unwrap();
    }

    fn attempts(&self, id: &str) -> u64 {
        self.0.api().callback(id)["attemptCount"].as_u64().unwrap()
    }

    fn wait_for_attempts(&self, id: &str, count: u64) {
        eventually("attempts", || (self.attempts(id) >= count).then_some(()));
    }

    fn jumped(&self, how: &str) {
        let is_it =
            |line: &Value| line["event.action"] == "clock-jumped" && line["event.reason"] == how;
        eventually("the jump is noticed", || self.0.log().iter().any(is_it).then_some(()));
    }
}

/// A free address on which nothing listens yet.
fn nobody() -> (std::net::SocketAddr, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, format!("http://{address}/"))
}

fn somebody(address: std::net::SocketAddr) -> Receiver {
    Receiver::listening(TcpListener::bind(address).unwrap(), vec![], Answer::Status(200))
}

#[test]
fn a_backward_jump_stalls_nothing() {
    let mut clocked =
        Clocked::prepare("retry.initial_interval = \"2s\"\nretry.max_interval = \"2s\"");
    clocked.serve();
    let (address, url) = nobody();
    let held = Receiver::answering(
        vec![Answer::With(503, vec![("retry-after", "2".into())])],
        Answer::Status(200),
    );
    let id = clocked.0.api().accept(&event("job_sending", "1", &url));
    let other = clocked.0.api().accept(&event("job_sending", "2", &held.url("/")));
    clocked.wait_for_attempts(&id, 1);
    clocked.wait_for_attempts(&other, 1);
    clocked.set(-3 * DAY);
    let _receiver = somebody(address);
    clocked.0.api().wait_for_state(&id, "delivered");
    clocked.0.api().wait_for_state(&other, "delivered");
    clocked.jumped("back");
}

#[test]
fn a_backward_jump_while_stopped_stalls_nothing() {
    let mut clocked =
        Clocked::prepare("retry.initial_interval = \"2s\"\nretry.max_interval = \"2s\"");
    clocked.serve();
    let (address, url) = nobody();
    let id = clocked.0.api().accept(&event("job_sending", "1", &url));
    let next = clocked.0.api().accept(&event("job_finished", "1", &url));
    clocked.wait_for_attempts(&id, 1);
    clocked.0.kill();
    clocked.set(-3 * DAY);
    let _receiver = somebody(address);
    clocked.serve();
    clocked.0.api().wait_for_state(&id, "delivered");
    clocked.0.api().wait_for_state(&next, "delivered");
}

/// An unreachable receiver with 40 callbacks waiting for their next attempt.
fn many_wait(clocked: &Clocked) -> (std::net::SocketAddr, Vec<String>) {
    let (address, url) = nobody();
    let api = clocked.0.api();
    let ids: Vec<_> =
        (0..40).map(|job| api.accept(&event("job_sending", &format!("w{job}"), &url))).collect();
    ids.iter().for_each(|id| clocked.wait_for_attempts(id, 1));
    (address, ids)
}

#[test]
fn a_backward_jump_stalls_none_of_many_callbacks_of_a_destination() {
    // A hardware clock in local time is ahead by hours, a wrong clock by days. Each is tested with settings
    // with which every callback would wait longer than this test, and with the defaults.
    for (settings, back, restart) in [
        ("retry.initial_interval = \"5m\"", -3 * DAY, false),
        ("retry.initial_interval = \"5m\"", -3 * DAY, true),
        ("[retry]", -2 * HOUR, false),
        ("[retry]", -2 * HOUR, true),
    ] {
        let mut clocked = Clocked::prepare(&format!("breaker.failures = 0\n{settings}"));
        clocked.serve();
        let (address, ids) = many_wait(&clocked);
        if restart {
            clocked.0.kill();
        }
        clocked.set(back);
        let receiver = somebody(address);
        if restart {
            clocked.serve();
        }
        let api = clocked.0.api();
        ids.iter().for_each(|id| drop(api.wait_for_state(id, "delivered")));
        assert_eq!(receiver.count(), ids.len(), "{settings} {back}");
    }
}

#[test]
fn a_hold_from_before_a_backward_jump_is_over() {
    let hold = |seconds: &str| Answer::With(503, vec![("retry-after", seconds.into())]);
    for restart in [false, true] {
        let receiver =
            Receiver::answering(vec![hold("300"), hold("3600"), hold("2")], Answer::Status(200));
        let mut clocked = Clocked::prepare("delivery.per_destination = 1\n[retry]");
        clocked.serve();
        let api = clocked.0.api();
        let first = api.accept(&event("job_sending", "1", &receiver.url("/")));
        clocked.wait_for_attempts(&first, 1);
        let shown = || api.queue()["destinations"][0]["holdUntil"].clone();
        eventually("the hold is known", || shown().is_string().then_some(()));
        if restart {
            clocked.0.kill();
        }
        for (back, attempts) in [(-DAY, 2), (-2 * DAY, 3)] {
            clocked.set(back);
            if restart && back == -DAY {
                clocked.serve();
            }
            clocked.wait_for_attempts(&first, attempts);
        }
        let api = clocked.0.api();
        let fresh: String = (0..100)
            .map(|job| {
                event("job_sending", &format!("f{job}"), &receiver.url("/")).to_string() + "\n"
            })
            .collect();
        api.post_lines(&fresh);
        api.wait_for_state(&first, "delivered");
        eventually("all go out", || (api.queue()["pending"] == 0).then_some(()));
        let puts = receiver.puts();
        assert_eq!(puts.len(), 3 + 101);
        assert!((puts[3].at - puts[2].at).as_millis() >= 1990, "the last hold counts");
    }
}

#[test]
fn a_backward_jump_stalls_no_destination_that_was_open_without_callbacks() {
    let mut clocked = Clocked::prepare("retry.max_attempts = 1\nbreaker.failures = 1");
    clocked.serve();
    let (address, url) = nobody();
    let api = clocked.0.api();
    let failed = api.accept(&event("job_sending", "1", &url));
    api.wait_for_state(&failed, "failed");
    clocked.set(-3 * DAY);
    // The loop looks at the clock when something happens.
    let good = Receiver::start();
    let other = api.accept(&event("job_sending", "2", &good.url("/")));
    api.wait_for_state(&other, "delivered");
    clocked.jumped("back");
    let _receiver = somebody(address);
    let id = api.accept(&event("job_sending", "3", &url));
    api.wait_for_state(&id, "delivered");
}

#[test]
fn a_backward_jump_stalls_no_destination_at_its_limit() {
    let mut clocked = Clocked::prepare("delivery.per_destination = 1");
    clocked.serve();
    let receivers = [(); 2].map(|()| Receiver::answering(vec![], Answer::Wait));
    let api = clocked.0.api();
    let ids = receivers.each_ref().map(|receiver| {
        let job = |number: i32| receiver.url(&format!("/{number}"));
        let event = |number| event("job_sending", &job(number), &receiver.url("/"));
        let ids: Vec<_> = (0..3).map(|number| api.accept(&event(number))).collect();
        receiver.wait_for(1);
        ids
    });
    clocked.set(-DAY);
    for (receiver, ids) in receivers.iter().zip(ids) {
        receiver.open();
        ids.iter().for_each(|id| drop(api.wait_for_state(id, "delivered")));
    }
}

#[test]
fn a_forward_jump_expires_and_purges_nothing() {
    let mut clocked = Clocked::prepare(
        "retention.delivered = \"1d\"\nretry.max_age = \"2h\"\n\
         retry.initial_interval = \"100ms\"\nretry.max_interval = \"200ms\"\nbreaker.failures = 0",
    );
    clocked.serve();
    let good = Receiver::start();
    let (address, url) = nobody();
    let done = clocked.0.api().accept(&event("job_sending", "0", &good.url("/")));
    clocked.0.api().wait_for_state(&done, "delivered");
    let id = clocked.0.api().accept(&event("job_sending", "1", &url));
    clocked.wait_for_attempts(&id, 1);
    clocked.set(10 * DAY);
    clocked.jumped("forward");
    let so_far = clocked.attempts(&id);
    clocked.wait_for_attempts(&id, so_far + 3);
    let new = clocked.0.api().accept(&event("job_sending", "2", &url));
    let _receiver = somebody(address);
    clocked.0.api().wait_for_state(&id, "delivered");
    clocked.0.api().wait_for_state(&new, "delivered");
    assert_eq!(clocked.0.api().callback(&done)["state"], "delivered", "it is still there");
}

#[test]
fn a_forward_jump_during_an_attempt_does_not_expire_it() {
    let mut clocked = Clocked::prepare(
        "retry.max_age = \"2h\"\ndelivery.timeout = \"2s\"\nbreaker.failures = 0\n\
         retry.initial_interval = \"100ms\"\nretry.max_interval = \"200ms\"",
    );
    clocked.serve();
    let receiver = Receiver::answering(vec![Answer::Wait], Answer::Status(200));
    let id = clocked.0.api().accept(&event("job_sending", "1", &receiver.url("/")));
    receiver.wait_for(1);
    clocked.set(10 * DAY);
    assert_eq!(clocked.0.api().wait_for_state(&id, "delivered")["attemptCount"], 2);
}

#[test]
fn callbacks_accepted_after_a_forward_jump_expire_in_time() {
    let mut clocked = Clocked::prepare(
        "retention.delivered = \"1s\"\nretry.max_age = \"1s\"\nretry.initial_interval = \"50ms\"\n\
         retry.max_interval = \"100ms\"\nbreaker.failures = 0",
    );
    clocked.serve();
    clocked.set(10 * DAY);
    clocked.jumped("forward");
    let (good, (_, nobody)) = (Receiver::start(), nobody());
    let api = clocked.0.api();
    let delivered = api.accept(&event("job_sending", "1", &good.url("/")));
    let first = api.accept(&event("job_sending", "2", &nobody));
    let behind = api.accept(&event("job_finished", "2", &nobody));
    for id in [first, behind] {
        let failed = api.wait_for_state(&id, "failed");
        assert_eq!(failed["lastError"]["kind"], "expired");
    }
    good.wait_for(1);
    eventually("it is forgotten", || {
        (api.get(&format!("/v1/callbacks/{delivered}")).status == 404).then_some(())
    });
}

#[test]
fn an_overdue_callback_gets_one_attempt_after_a_start() {
    let mut clocked = Clocked::prepare("retry.max_age = \"2h\"\nbreaker.failures = 0");
    clocked.0.configure(
        "retry.max_age = \"2h\"\nbreaker.failures = 0\n\
         retry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"",
    );
    clocked.serve();
    let ((address, back), (_, gone)) = (nobody(), nobody());
    let lucky = clocked.0.api().accept(&event("job_sending", "1", &back));
    let unlucky = clocked.0.api().accept(&event("job_sending", "2", &gone));
    clocked.wait_for_attempts(&lucky, 1);
    clocked.wait_for_attempts(&unlucky, 1);
    assert_eq!(clocked.0.terminate(), Some(0));
    clocked.set(4 * DAY);
    let _receiver = somebody(address);
    clocked.serve();
    let api = clocked.0.api();
    assert_eq!(api.wait_for_state(&lucky, "delivered")["attemptCount"], 2);
    let failed = api.wait_for_state(&unlucky, "failed");
    assert_eq!(
        (&failed["lastError"]["kind"], &failed["attemptCount"]),
        (&"expired".into(), &2.into())
    );
    assert_eq!(failed["attempts"][1]["error"]["kind"], "connect");
}

#[test]
fn the_page_shows_how_long_the_oldest_callback_has_been_due() {
    let mut clocked = Clocked::prepare("delivery.per_destination = 1\ndelivery.timeout = \"1h\"\n");
    clocked.serve();
    let api = clocked.0.api();
    // The first one is being sent, and the second one is due behind it.
    let receiver = Receiver::answering(Vec::new(), Answer::Wait);
    for job in ["1", "2"] {
        api.accept(&event("job_sending", job, &receiver.url("/")));
    }
    receiver.wait_for(1);
    let overview = || crate::page::text(&crate::page::view(&api, "/ui/"));
    assert!(!overview().contains("Oldest due for"));
    clocked.set(600);
    assert!(overview().contains("<b>10m") && overview().contains("Oldest due for"));
}
