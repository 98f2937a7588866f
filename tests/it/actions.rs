//! Operator actions on callbacks and destinations: search, cancel, retry now, pause.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Answer, Api, PAUSE, Receiver, Service, event, eventually};

/// A port on which nothing listens, and its address.
fn closed() -> (std::net::SocketAddr, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, format!("http://{address}"))
}

fn ids(page: &Value) -> Vec<String> {
    let callbacks = page["callbacks"].as_array().unwrap().iter();
    callbacks.map(|it| it["id"].as_str().unwrap().to_owned()).collect()
}

fn destination(api: &Api, name: &str) -> Value {
    let all = api.get("/v1/destinations").json();
    let mut found = all["destinations"].as_array().unwrap().iter();
    found.find(|it| it["destination"] == name).cloned().unwrap_or_default()
}

/// Waits longer than anything would take without the pause.
fn pass(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::thread::park_timeout(PAUSE);
    }
}

/// A failed, a delivered and a pending callback of each of two directories.
fn several(service: &Service) -> (Api, Vec<[String; 3]>, String) {
    let api = service.api();
    let bad = Receiver::answering(vec![], Answer::Status(410));
    let good = Receiver::start();
    let (_, dead) = closed();
    let mut all = Vec::new();
    for job in ["1", "2"] {
        let failed = api.accept(&event("job_sending", job, &bad.url("/")));
        api.wait_for_state(&failed, "failed");
        let delivered = api.accept(&event("job_sending", job, &good.url("/")));
        api.wait_for_state(&delivered, "delivered");
        let pending = api.accept(&event("job_finished", job, &format!("{dead}/")));
        eventually("an attempt", || (api.callback(&pending)["attemptCount"] != 0).then_some(()));
        all.push([failed, delivered, pending]);
    }
    (api, all, dead)
}

#[test]
fn callbacks_are_found_by_directory_error_and_time_in_every_state() {
    let service = Service::start("breaker.failures = 0");
    let (api, all, _) = several(&service);
    let list = |query: &str| ids(&api.get(&format!("/v1/callbacks?{query}")).json());
    let [failed, delivered, pending] = &all[1];
    assert_eq!(list("jobIdFs=fs-2"), [pending.clone(), delivered.clone(), failed.clone()]);
    assert_eq!(list("jobIdFs=fs-2&state=delivered"), [delivered.as_str()]);
    assert_eq!(list("jobId=2"), list("jobIdFs=fs-2"));
    assert_eq!(list("jobIdFs=fs"), [] as [&str; 0], "the whole name counts");
    assert_eq!(list("errorKind=status"), [failed.clone(), all[0][0].clone()]);
    assert_eq!(list("errorKind=connect&jobIdFs=fs-1"), [all[0][2].clone()]);
    let accepted = api.callback(failed)["createdAt"].as_str().unwrap().to_owned();
    assert_eq!(list(&format!("until={accepted}")).len(), 3);
    assert_eq!(list(&format!("since={accepted}")).len(), 3);
    assert_eq!(list("until=1h"), [] as [&str; 0]);
    let ended = api.callback(failed)["finishedAt"].as_str().unwrap().to_owned();
    assert_eq!(list(&format!("endedSince={ended}")), [delivered.clone(), failed.clone()]);
    assert_eq!(list(&format!("endedUntil={ended}")), [all[0][1].clone(), all[0][0].clone()]);
    for (query, said) in [
        ("errorKind=sad", "expected one of status, timeout, connect"),
        ("until=later", "expected a time such as"),
        ("jobidfs=1", "unknown field `jobidfs`"),
    ] {
        let answer = api.get(&format!("/v1/callbacks?{query}"));
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(answer.status == 400 && detail.contains(said), "{query}: {detail}");
    }
    let shown = |args: &[&str]| {
        let args = [&["inspect-queue", "--output", "json"], args].concat();
        ids(&service.json(&args))
    };
    assert_eq!(shown(&["--job-id-fs", "fs-2"]).len(), 3);
    assert_eq!(shown(&["--error-kind", "status", "--until", &accepted]), [all[0][0].clone()]);
    assert_eq!(shown(&["--ended-until", &ended]), list(&format!("endedUntil={ended}")));
    for filter in [json!({"jobIdFs": "fs-1"}), json!({"endedUntil": ended, "endedSince": "1h"})] {
        let one = api.post("/v1/callbacks/replay", &json!({"filter": filter, "dryRun": true}));
        assert_eq!(one.json(), json!({"matched": 1, "replayed": 0}));
    }
    let replay = ["replay-failed", "--job-id-fs", "fs-2", "--error-kind", "status", "--dry-run"];
    let said = String::from_utf8(service.run(&replay).stdout).unwrap();
    assert_eq!(said, "matched 1, replayed 0\n");
}

#[test]
fn pending_callbacks_are_cancelled_by_filter_in_steps() {
    let service = Service::start("breaker.failures = 0\nretry.initial_interval = \"5m\"");
    let api = service.api();
    let (_, dead) = closed();
    let hole = Receiver::answering(vec![], Answer::Wait);
    let sent = api.accept(&event("job_sending", "0", &hole.url("/")));
    hole.wait_for(1);
    let all: Vec<_> =
        (1..6).map(|n| api.accept(&event("job_sending", &n.to_string(), &dead))).collect();
    let tried = |id: &String| api.callback(id)["attemptCount"] == 1;
    eventually("none of them is in flight", || all.iter().all(tried).then_some(()));
    let cancel = |body: Value| api.post("/v1/callbacks/cancel", &body).json();
    let matched =
        |matched, cancelled| json!({"matched": matched, "cancelled": cancelled, "inFlight": 0});
    let filter = json!({"destination": dead});
    assert_eq!(cancel(json!({"filter": filter, "dryRun": true})), matched(5, 0));
    let first = cancel(json!({"filter": filter, "limit": 2}));
    assert_eq!((&first["cancelled"], &first["nextCursor"]), (&json!(2), &json!(all[1])));
    assert_eq!(api.callback(&all[2])["state"], "pending");
    let rest = cancel(json!({"filter": filter, "cursor": first["nextCursor"]}));
    assert_eq!(rest, matched(3, 3));
    for id in &all {
        let one = api.callback(id);
        assert_eq!(
            (&one["state"], &one["lastError"]["kind"]),
            (&json!("failed"), &json!("cancelled"))
        );
    }
    let left = cancel(json!({"filter": {"all": true}}));
    assert_eq!(left, json!({"matched": 1, "cancelled": 0, "inFlight": 1}));
    let ftp = api.post("/v1/events", &event("job_sending", "7", "ftp://h/x"));
    assert_eq!(ftp.status, 422);
    let found = ids(&api.get("/v1/callbacks?destination=ftp://h:21").json());
    assert_eq!(found, [ftp.json()["id"].as_str().unwrap()]);
    assert_eq!(api.callback(&sent)["state"], "pending");
    for (wrong, status) in [
        (json!({"filter": {}}), 400),
        (json!({"filter": {"all": true}, "limit": 0}), 400),
        (json!({"filter": []}), 422),
        (json!([{"all": true}]), 422),
    ] {
        assert_eq!(api.post("/v1/callbacks/cancel", &wrong).status, status, "{wrong}");
    }
    assert_eq!(api.callback(&sent)["state"], "pending");
    let audit = eventually("it is logged", || {
        service.log().into_iter().find(|line| line["event.action"] == "callbacks-cancelled")
    });
    assert_eq!((&audit["callback.matched"], &audit["callback.cancelled"]), (&json!(2), &json!(2)));
    assert_eq!(audit["callback.destination"], dead);
}

#[test]
fn after_a_repair_retry_now_waits_for_nothing() {
    let settings = "[retry]\ninitial_interval = \"1h\"\nmax_interval = \"1h\"\njitter = 0.0\n\
                    [breaker]\nfailures = 1\ninitial_pause = \"1h\"\nmax_pause = \"1h\"";
    let service = Service::start(settings);
    let api = service.api();
    let (address, dead) = closed();
    let tried = api.accept(&event("job_sending", "1", &dead));
    let waiting = api.accept(&event("job_finished", "1", &dead));
    eventually("it is open", || (destination(&api, &dead)["state"] == "open").then_some(()));
    let untried = api.accept(&event("job_sending", "2", &dead));
    let open = destination(&api, &dead);
    assert_eq!(
        (&open["pending"], &open["due"], &open["failed"]),
        (&json!(3), &json!(1), &json!(0))
    );
    assert_eq!(open["since"], open["openSince"]);
    assert!(open["nextProbeAt"].is_string(), "{open}");
    // A held destination.
    let held = Receiver::answering(
        vec![Answer::With(503, vec![("retry-after", "3600".into())])],
        Answer::Status(200),
    );
    let asked = api.accept(&event("job_sending", "3", &held.url("/")));
    held.wait_for(1);
    let name = held.url("");
    eventually("it is held", || destination(&api, &name)["holdUntil"].is_string().then_some(()));
    assert_eq!(destination(&api, &name)["state"], "open", "it is both");

    let receiver =
        Receiver::listening(TcpListener::bind(address).unwrap(), vec![], Answer::Status(200));
    pass(Duration::from_millis(200));
    assert_eq!(receiver.count(), 0, "it would have been sent anyway");
    let retry = |body: Value| api.post("/v1/callbacks/retry-now", &body).json();
    let filter = json!({"destination": dead});
    assert_eq!(retry(json!({"filter": filter, "dryRun": true})), json!({"matched": 3, "due": 0}));
    pass(Duration::from_millis(100));
    assert_eq!(receiver.count(), 0, "a dry run sends nothing");
    assert_eq!(retry(json!({"filter": filter})), json!({"matched": 3, "due": 2}));
    for id in [&tried, &waiting, &untried] {
        api.wait_for_state(id, "delivered");
    }
    let output = service.run(&["retry-now", "--id", &asked]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "matched 1, due 1\n");
    api.wait_for_state(&asked, "delivered");
    for action in ["callbacks-retried", "destination-closed"] {
        let is_it = |line: &Value| line["event.action"] == action;
        eventually(action, || service.log().iter().any(is_it).then_some(()));
    }
}

#[test]
fn a_paused_destination_keeps_its_callbacks_over_a_kill() {
    let settings = "[retry]\ninitial_interval = \"20ms\"\nmax_interval = \"50ms\"\nmax_age = \"1s\"\n\
                    [breaker]\nfailures = 2\ninitial_pause = \"20ms\"\nmax_pause = \"50ms\"";
    let mut service = Service::start(settings);
    let api = service.api();
    let receiver = Receiver::answering(vec![], Answer::Status(503));
    let other = Receiver::start();
    let name = receiver.url("");
    let pause = json!({"destination": receiver.url("/some/path")});
    let first = api.post("/v1/destinations/pause", &pause).json();
    assert_eq!(
        (&first["destination"], &first["state"], &first["pending"]),
        (&json!(name), &json!("paused"), &json!(0))
    );
    assert_eq!(first["since"], first["pausedAt"]);
    let resumed = api.post("/v1/destinations/resume", &pause).json();
    assert_eq!((&resumed["state"], &resumed["pausedAt"]), (&json!("ok"), &Value::Null));
    assert_eq!(destination(&api, &name), Value::Null, "nothing is left of it");

    let tried = api.accept(&event("job_sending", "1", &receiver.url("/")));
    eventually("it is open", || (destination(&api, &name)["state"] == "open").then_some(()));
    api.post("/v1/destinations/pause", &pause);
    eventually("nothing is in flight", || {
        (destination(&api, &name)["inFlight"] == 0).then_some(())
    });
    let sent = receiver.count();
    let new = api.accept(&event("job_sending", "2", &receiver.url("/")));
    service.kill();
    service.serve();
    let api = service.api();
    let elsewhere = api.accept(&event("job_sending", "3", &other.url("/")));
    api.wait_for_state(&elsewhere, "delivered");
    // Longer than `retry.max_age`, and long enough for many probes.
    pass(Duration::from_millis(1500));
    assert_eq!(receiver.count(), sent, "a paused destination is not even probed");
    for id in [&tried, &new] {
        let one = api.callback(id);
        assert_eq!(
            (&one["state"], &one["paused"], &one["expiresAt"]),
            (&json!("pending"), &json!(true), &Value::Null)
        );
    }
    let shown = api.get("/v1/destinations").json();
    assert_eq!(shown["destinations"][0]["destination"], name, "paused ones come first");
    assert_eq!(shown["destinations"][0]["nextProbeAt"], Value::Null);
    assert_eq!(api.queue()["pausedCount"], 1);
    let metrics = String::from_utf8(api.get("/metrics").body).unwrap();
    assert!(metrics.contains("\nurlcallback_destinations_paused 1\n"));
    assert!(metrics.contains("\nurlcallback_callbacks_overdue 0\n"));
    let table = String::from_utf8(service.run(&["inspect-queue"]).stdout).unwrap();
    assert!(table.starts_with("paused     1  destinations\n"), "{table}");
    assert!(table.contains("paused for "), "{table}");
    let status = String::from_utf8(service.run(&["status"]).stdout).unwrap();
    assert!(status.contains("\npaused     1  destinations\n"), "{status}");
    let line = table.lines().find(|line| line.contains(&*new)).unwrap();
    assert!(line.contains("paused"), "{line}");
    let retried = api.post("/v1/callbacks/retry-now", &json!({"filter": {"all": true}})).json();
    assert_eq!(retried, json!({"matched": 2, "due": 0}), "a pause is not overruled");
    pass(Duration::from_millis(100));
    assert_eq!(receiver.count(), sent);

    let output = service.run(&["resume", "--destination", &name]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("resumed {name}: 2 pending\n"));
    eventually("it is sent again", || (receiver.count() > sent).then_some(()));
    // Its age starts again, and it expires as it does without a pause.
    let ended = api.wait_for_state(&new, "failed");
    assert_eq!(ended["lastError"]["kind"], "expired", "{ended}");
    for action in ["destination-paused", "destination-resumed"] {
        let is_it = |line: &Value| {
            line["event.action"] == action && line["callback.destination"] == name.as_str()
        };
        eventually(action, || service.log().iter().any(is_it).then_some(()));
    }
}

#[test]
fn destinations_are_listed_page_by_page() {
    let service = Service::start(
        "breaker.failures = 1\nbreaker.initial_pause = \"1h\"\nbreaker.max_pause = \"1h\"",
    );
    let api = service.api();
    let gone = Receiver::answering(vec![], Answer::Status(410));
    let id = api.accept(&event("job_sending", "gone", &gone.url("/")));
    api.wait_for_state(&id, "failed");
    for n in 1..6 {
        api.accept(&event("job_sending", &n.to_string(), &format!("http://127.0.0.{n}:1/")));
    }
    eventually("all are open", || {
        let all = api.get("/v1/destinations").json();
        let open =
            all["destinations"].as_array().unwrap().iter().filter(|it| it["state"] == "open");
        (open.count() == 5).then_some(())
    });
    let name = json!("http://127.0.0.4:1");
    for (action, state) in [("pause", "paused"), ("resume", "open"), ("pause", "paused")] {
        let path = format!("/v1/destinations/{action}");
        let shown = api.post(&path, &json!({"destination": name})).json();
        assert_eq!((&shown["destination"], &shown["state"]), (&name, &json!(state)));
    }
    let mut found = Vec::new();
    let mut path = "/v1/destinations?limit=2".to_owned();
    loop {
        let page = api.get(&path).json();
        let names = page["destinations"].as_array().unwrap().iter();
        found.extend(names.map(|it| it["destination"].as_str().unwrap().to_owned()));
        match page["nextCursor"].as_str() {
            Some(cursor) => path = format!("/v1/destinations?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    let expected = [4, 1, 2, 3, 5].map(|n| format!("http://127.0.0.{n}:1"));
    assert_eq!(found[..5], expected);
    assert_eq!(found[5..], [gone.url("")]);
    for (query, said) in [
        ("cursor=abc", "invalid cursor"),
        ("limit=0", "`limit` must be from 1 to 1000"),
        ("destination=nowhere", "invalid destination `nowhere`"),
    ] {
        let answer = api.get(&format!("/v1/destinations?{query}"));
        assert!(answer.status == 400 && answer.json()["detail"].as_str().unwrap().contains(said));
    }
    for path in ["/v1/destinations/pause", "/v1/destinations/resume"] {
        assert_eq!(api.post(path, &json!({"destination": "host"})).status, 400);
        assert_eq!(api.post(path, &json!({})).status, 422);
        assert_eq!(api.post(path, &json!(["http://h"])).status, 422);
    }
}

#[test]
fn without_a_service_the_commands_change_the_store() {
    let mut service = Service::start("[retry]\ninitial_interval = \"1h\"\nmax_interval = \"1h\"");
    let api = service.api();
    let (address, dead) = closed();
    let first = api.accept(&event("job_sending", "1", &dead));
    let second = api.accept(&event("job_sending", "2", &dead));
    for id in [&first, &second] {
        eventually("an attempt", || (api.callback(id)["attemptCount"] != 0).then_some(()));
    }
    assert_eq!(service.terminate(), Some(0));
    let run = |args: &[&str]| {
        let output = service.run(args);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let said = |text: &str| (Some(0), format!("{text}\n"));
    assert_eq!(run(&["pause", "--destination", &dead]), said(&format!("paused {dead}: 2 pending")));
    assert_eq!(run(&["retry-now", "--all"]), said("matched 2, due 0"));
    assert_eq!(
        run(&["cancel", "--job-id-fs", "fs-1", "--dry-run"]),
        said("matched 1, cancelled 0, in flight 0")
    );
    assert_eq!(
        run(&["cancel", "--job-id-fs", "fs-1"]),
        said("matched 1, cancelled 1, in flight 0")
    );
    for command in ["cancel", "retry-now", "replay-failed"] {
        assert_eq!(run(&[command]).0, Some(2), "{command} without a selector");
        assert_eq!(run(&[command, "--until", "soon"]).0, Some(2));
        assert_eq!(run(&[command, "--error-kind", "sad"]).0, Some(2));
    }
    assert_eq!(run(&["pause"]).0, Some(2));
    assert_eq!(run(&["inspect-queue", "--until", "soon"]), (Some(2), String::new()));
    for wrong in ["host", "ftp://host", "http://host:0"] {
        assert_eq!(run(&["pause", "--destination", &dead, "--destination", wrong]).0, Some(2));
    }
    assert_eq!(
        run(&["resume", "--destination", &dead]),
        said(&format!("resumed {dead}: 1 pending"))
    );
    let receiver =
        Receiver::listening(TcpListener::bind(address).unwrap(), vec![], Answer::Status(200));
    service.serve();
    service.api().wait_for_state(&second, "delivered");
    assert_eq!(receiver.count(), 1);
}

#[test]
fn destinations_are_listed_with_the_rates_of_their_attempts() {
    let service = Service::start("breaker.failures = 0");
    let (api, _, dead) = several(&service);
    let all = api.get("/v1/destinations").json();
    let rates = |it: &Value| {
        let rate = |name: &str| it[name].as_f64().unwrap();
        (rate("deliveredPerMinute"), rate("failedAttemptsPerMinute"))
    };
    let fails = eventually("two attempts failed", || {
        Some(rates(&destination(&api, &dead))).filter(|(_, failed)| *failed >= 2.0)
    });
    assert!(fails.0.abs() < f64::EPSILON, "{fails:?}");
    let good = Receiver::start();
    for job in ["3", "4", "5"] {
        let delivered = api.accept(&event("job_sending", job, &good.url("/")));
        api.wait_for_state(&delivered, "delivered");
    }
    let paused = api.post("/v1/destinations/pause", &json!({"destination": good.url("")})).json();
    assert_eq!(rates(&paused), (3.0, 0.0), "{all}");
}
