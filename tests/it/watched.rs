//! Monitoring: systemd, metrics and the log.

use std::net::TcpListener;

use serde_json::json;

use crate::support::{Answer, Receiver, Service, event, eventually, unused_address};

#[cfg(unix)]
#[test]
fn systemd_is_notified() {
    use std::{
        os::unix::net::UnixDatagram,
        time::{Duration, Instant},
    };

    let mut service = Service::prepare("");
    let socket = UnixDatagram::bind(service.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let path = service.path("notify");
    let limit = Duration::from_secs(6);
    let micros = limit.as_micros().to_string();
    service.serve_with(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", &micros)]);
    let mut heard = String::new();
    let mut hear = |what: &str| {
        while !heard.contains(what) {
            let mut buffer = [0; 1024];
            let n = socket.recv(&mut buffer).unwrap();
            heard.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        heard.clear();
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    let begin = Instant::now();
    hear("STATUS=accepting events; pending 0");
    hear("WATCHDOG=1");
    assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
    assert_eq!(service.terminate(), Some(0));
    hear("STOPPING=1");
}

#[test]
fn destinations_without_progress_are_shown_first() {
    let service = Service::start(
        "breaker.failures = 1\nbreaker.initial_pause = \"1h\"\nbreaker.max_pause = \"1h\"\n\
         delivery.concurrency = 8",
    );
    // On every address of the loopback network.
    let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let busy = Receiver::listening(everywhere, vec![], Answer::Wait);
    let api = service.api();
    // An open destination with fewer callbacks than all others.
    let open = api.accept(&event("job_sending", "open", "http://127.0.0.1:1/"));
    eventually("it is open", || (api.queue()["destinations"][0]["open"] == true).then_some(()));
    let lines: String = (0..2200)
        .map(|n| {
            let url = format!("http://127.0.{}.{}:{}/", n / 250, n % 250 + 1, busy.address.port());
            let job = |of: &str| event("job_sending", &format!("{of}{n}"), &url).to_string() + "\n";
            // Every second destination has two callbacks.
            if n % 2 == 0 { job("a") + &job("b") } else { job("a") }
        })
        .collect();
    api.post_lines(&lines);
    let queue = eventually("all are known", || {
        Some(api.queue()).filter(|it| it["destinationCount"].as_u64() > Some(2000))
    });
    let shown = queue["destinations"].as_array().unwrap();
    assert_eq!(shown.len(), 1000);
    assert_eq!(
        (&shown[0]["destination"], &shown[0]["open"]),
        (&"http://127.0.0.1:1".into(), &true.into())
    );
    assert_eq!(api.callback(&open)["state"], "pending");
    busy.open();
}

#[test]
fn a_destination_is_logged_once_when_it_opens_and_with_the_reason_when_it_closes() {
    let settings = "[breaker]\nfailures = 1\ninitial_pause = \"20ms\"\nmax_pause = \"20ms\"\n\
                    [retry]\ninitial_interval = \"10ms\"\nmax_interval = \"10ms\"";
    let service = Service::start(settings);
    let api = service.api();
    let address = unused_address();
    let id = api.accept(&event("job_sending", "1", &format!("http://{address}/")));
    let lines = |action: &str| -> Vec<_> {
        service.log().into_iter().filter(|line| line["event.action"] == action).collect()
    };
    let wait_for = |action: &str, count: usize| {
        eventually(action, || (lines(action).len() >= count).then_some(()));
    };
    wait_for("callback-retry", 5);
    assert_eq!(lines("destination-open").len(), 1, "it has been open since the first failure");
    assert!(lines("destination-closed").is_empty());

    api.post("/v1/callbacks/retry-now", &json!({"filter": {"all": true}}));
    wait_for("destination-open", 2);
    assert_eq!(lines("destination-closed")[0]["message"], "an operator has closed the breaker");

    let listener = TcpListener::bind(address).unwrap();
    let _receiver = Receiver::listening(listener, vec![], Answer::Status(200));
    api.wait_for_state(&id, "delivered");
    wait_for("destination-closed", 2);
    assert_eq!(lines("destination-closed")[1]["message"], "the destination works again");
}

#[test]
fn every_failure_is_counted_and_operations_are_logged() {
    let service = Service::start("retry.max_attempts = 1");
    let api = service.api();
    let receiver = Receiver::answering(vec![Answer::Status(500)], Answer::Wait);
    let exhausted = api.accept(&event("job_sending", "1", &receiver.url("/")));
    api.wait_for_state(&exhausted, "failed");
    assert_eq!(api.post("/v1/events", &event("job_sending", "2", "ftp://h/")).status, 422);
    let [_held, waits] = ["job_sending", "job_finished"]
        .map(|kind| api.accept(&event(kind, "3", &receiver.url("/"))));
    assert_eq!(api.post(&format!("/v1/callbacks/{waits}/cancel"), &json!({})).status, 200);
    let metrics = String::from_utf8(api.get("/metrics").body).unwrap();
    let counted = "urlcallback_callbacks_ended_total{state=\"failed\"} 3";
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(api.post("/v1/events", &json!({"event": "job_sending"})).status, 422);
    let mut known = event("job_sending", "4", "http://127.0.0.1:1/");
    known["eventId"] = "known".into();
    assert_eq!([202, 200], [0, 1].map(|_| api.post("/v1/events", &known).status));

    let filter = json!({"filter": {"jobId": "1"}});
    assert_eq!(api.post("/v1/callbacks/replay", &filter).json()["replayed"], 1);
    let line = |action: &str| {
        eventually(action, || service.log().into_iter().find(|line| line["event.action"] == action))
    };
    assert!(line("event-refused")["error.message"].as_str().unwrap().contains("jobId"));
    assert_eq!(line("event-duplicate")["dpf.job_id"], "4");
    assert_eq!(line("callback-cancelled")["callback.id"], waits.as_str());
    let replayed = line("callbacks-replayed");
    assert_eq!((&replayed["callback.replayed"], &replayed["dpf.job_id"]), (&1.into(), &"1".into()));
    receiver.open();
}

#[test]
fn the_time_until_the_first_attempt_is_measured_once_for_each_callback() {
    let service = Service::start("");
    let api = service.api();
    let receiver = Receiver::answering(vec![Answer::Status(503); 2], Answer::Status(200));
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    assert_eq!(api.wait_for_state(&id, "delivered")["attemptCount"], 3);
    let metrics = String::from_utf8(api.get("/metrics").body).unwrap();
    let counted = "\nurlcallback_accept_to_first_attempt_seconds_count 1\n";
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn a_purge_is_logged_with_the_number_of_callbacks_and_only_if_there_were_any() {
    let service = Service::start("retention.delivered = \"1s\"");
    let api = service.api();
    let receiver = Receiver::answering(vec![Answer::Status(422)], Answer::Status(200));
    let failed = api.accept(&event("job_sending", "0", &receiver.url("/")));
    receiver.wait_for(1);
    let counts = || -> Vec<u64> {
        let log = service.log();
        let purges = log.iter().filter(|line| line["event.action"] == "callbacks-purged");
        purges.map(|line| line["callback.count"].as_u64().unwrap()).collect()
    };
    for purged in [3, 4] {
        for job in receiver.count()..=purged {
            api.accept(&event("job_sending", &job.to_string(), &receiver.url("/")));
        }
        receiver.wait_for(purged + 1);
        let all = || counts().iter().sum::<u64>() >= purged as u64;
        eventually("they are purged", || all().then_some(()));
        assert_eq!(counts().iter().sum::<u64>(), purged as u64);
    }
    let counts = counts();
    assert!(!counts.contains(&0), "{counts:?}");
    assert_eq!(api.callback(&failed)["state"], "failed");
    let metrics = String::from_utf8(api.get("/metrics").body).unwrap();
    assert!(metrics.contains("\nurlcallback_callbacks_purged_total 4\n"), "{metrics}");
}
