//! Slow and hanging DNS look-ups (`delivery::send::names`).

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use crate::support::{Receiver, Service, event, eventually, preloaded};

/// A service whose resolver (`LD_PRELOAD`) resolves `.test` names to 127.0.0.1 and delays `.slow.test`
/// names by n seconds.
fn serve(settings: &str, seconds: &str) -> Service {
    let mut service = Service::prepare(settings);
    fs::write(service.path("answers"), "127.0.0.1\n").unwrap();
    let (answers, notes) = (service.path("answers"), service.path("notes"));
    service.serve_with(&[
        ("LD_PRELOAD", &preloaded("resolver.c")),
        ("RESOLVER_ANSWERS", answers.to_str().unwrap()),
        ("RESOLVER_NOTES", notes.to_str().unwrap()),
        ("RESOLVER_SECONDS", seconds),
    ]);
    service
}

fn look_ups(service: &Service) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for name in service.read("notes").lines() {
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

fn hanging(count: usize, port: u16) -> String {
    let url = |name| format!("http://hangs{name}.slow.test:{port}/");
    (0..count)
        .map(|job| event("job_sending", &format!("h{job}"), &url(job)).to_string() + "\n")
        .collect()
}

#[test]
fn hanging_look_ups_do_not_delay_other_names() {
    let service = serve("delivery.connect_timeout = \"1s\"", "10000");
    let (known, new) = (Receiver::start(), Receiver::start());
    let api = service.api();
    let good = |name: &str, receiver: &Receiver| {
        let url = format!("http://{name}.test:{}/", receiver.address.port());
        api.accept(&event("job_sending", name, &url))
    };
    let id = good("known", &known);
    api.wait_for_state(&id, "delivered");
    api.post_lines(&hanging(600, known.address.port()));
    eventually("look-ups hang", || (look_ups(&service).len() >= 200).then_some(()));
    let begin = Instant::now();
    for number in 0..20 {
        let id = good(&format!("new{number}"), &new);
        assert_eq!(api.wait_for_state(&id, "delivered")["attemptCount"], 1);
        let id = good("known", &known);
        assert_eq!(api.wait_for_state(&id, "delivered")["attemptCount"], 1);
    }
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert!(
        look_ups(&service).values().all(|count| *count == 1),
        "one look-up of a name at a time"
    );
    let error = eventually("a look-up that hangs is charged", || {
        let charged = api.get("/v1/callbacks?jobId=h0").json()["callbacks"][0].clone();
        Some(charged["lastError"].clone()).filter(|error| !error.is_null())
    });
    assert_eq!(error["kind"], "dns", "{error}");
    assert!(error["message"].as_str().unwrap().contains("connect_timeout"), "{error}");
}

#[test]
fn a_slow_look_up_is_cached() {
    let service = serve("", "0.2");
    let begin = Instant::now();
    let receiver = Receiver::start();
    let url = format!("http://far.slow.test:{}/", receiver.address.port());
    let api = service.api();
    let lines: String = (0..30)
        .map(|job| event("job_sending", &job.to_string(), &url).to_string() + "\n")
        .collect();
    api.post_lines(&lines);
    eventually("all are delivered", || (api.queue()["pending"] == 0).then_some(()));
    assert_eq!(look_ups(&service)["far.slow.test"], 1);
    assert!(receiver.connections() > 1);
    let other = Receiver::start();
    let url = format!("http://far.slow.test:{}/", other.address.port());
    let id = api.accept(&event("job_sending", "other", &url));
    api.wait_for_state(&id, "delivered");
    let kept = Duration::from_secs(10);
    assert!(look_ups(&service)["far.slow.test"] == 1 || begin.elapsed() > kept);
}

#[test]
fn a_look_up_that_waits_for_a_slot_costs_no_attempt_and_one_that_hangs_costs_one() {
    /// For look-ups of new names.
    const SLOTS: usize = 896;
    let settings = "delivery.timeout = \"1s\"\n\
                    delivery.concurrency = 2000\n\
                    retry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"";
    let service = serve(settings, "8");
    let receiver = Receiver::start();
    let api = service.api();
    api.post_lines(&hanging(SLOTS, receiver.address.port()));
    eventually("all slots are taken", || (look_ups(&service).len() == SLOTS).then_some(()));
    let url = format!("http://waits.test:{}/", receiver.address.port());
    let id = api.accept(&event("job_sending", "waits", &url));
    let waited =
        eventually("it was sent", || Some(api.callback(&id)).filter(|it| it["attemptCount"] != 0));
    assert_eq!((&waited["state"], &waited["attemptCount"]), (&"delivered".into(), &1.into()));
    let hung = api.get("/v1/callbacks?jobId=h0").json()["callbacks"][0].clone();
    assert_eq!((&hung["lastError"]["kind"], &hung["attemptCount"]), (&"timeout".into(), &1.into()));
}
