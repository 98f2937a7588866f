//! Notices: the operator's receiver is notified when callbacks fail for good.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Answer, Put, Receiver, Service, event, eventually};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn settings(told: &Receiver, window: &str, rest: &str) -> String {
    let url = told.url("/alerts?team=print");
    format!("notify.url = \"{url}\"\nnotify.window = \"{window}\"\n{rest}")
}

fn lines(url: &str, jobs: std::ops::Range<usize>) -> String {
    jobs.map(|job| event("job_sending", &job.to_string(), url).to_string() + "\n").collect()
}

/// How many callbacks the notices report.
fn failed(notices: &[Put]) -> u64 {
    notices.iter().map(|put| put.json()["failed"].as_u64().unwrap()).sum()
}

/// The id of a callback that can never be sent.
fn refused(service: &Service, url: &str) -> String {
    let response = service.api().post("/v1/events", &event("job_sending", "1", url));
    assert_eq!(response.status, 422, "{response:?}");
    let id = response.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(service.api().callback(&id)["state"], "failed");
    id
}

#[test]
fn each_destination_has_one_notice_for_a_window() {
    let told = Receiver::start();
    let gone = Receiver::answering(vec![Answer::Status(422)], Answer::Status(410));
    let other = Receiver::answering(vec![], Answer::Status(501));
    let mut service = Service::prepare(&settings(
        &told,
        "3s",
        &format!(
            "signing.secrets = [\"{SECRET}\"]\n[destinations.\"http://{}\"]\nbearer_token_file = \"secret\"\n",
            told.address
        ),
    ));
    std::fs::write(service.path("secret"), "a-token").unwrap();
    service.serve();
    let api = service.api();
    api.post_lines(&lines(&gone.url("/x"), 0..300));
    api.post_lines(&lines(&other.url("/"), 300..302));
    eventually("all have failed", || (api.queue()["failed"] == 302).then_some(()));
    let puts = told.wait_for(2);
    let about = |receiver: &Receiver| {
        let destination = receiver.url("");
        let found: Vec<_> =
            puts.iter().filter(|put| put.json()["destination"] == destination).collect();
        assert_eq!(found.len(), 1, "{puts:#?}");
        found[0]
    };
    let put = about(&gone);
    assert_eq!((put.method.as_str(), put.path.as_str()), ("PUT", "/alerts?team=print"));
    assert_eq!(put.header("content-type"), "application/json");
    // The settings of the receiver's destination apply.
    assert!(put.header("authorization").starts_with("Bearer "), "{put:?}");
    let headers = put.headers.clone();
    standardwebhooks::Webhook::new(SECRET).unwrap().verify(put.body.as_bytes(), &headers).unwrap();

    let notice = put.json();
    let listed = api.get("/v1/callbacks?state=failed&limit=1000").json();
    let ids: BTreeSet<_> = listed["callbacks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["destination"] == gone.url(""))
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(notice["type"], "callbacks.failed");
    assert_eq!(notice["failed"], 300);
    assert_eq!(notice["firstId"], *ids.first().unwrap());
    assert_eq!(notice["lastId"], *ids.last().unwrap());
    assert_eq!(notice["errorKinds"], json!({"status": 300}));
    assert_eq!(notice["error"]["status"], 410);
    let time = |name: &str| humantime::parse_rfc3339(notice[name].as_str().unwrap()).unwrap();
    let window = time("windowEnd").duration_since(time("windowStart")).unwrap();
    assert_eq!(window.as_secs(), 3);
    assert_eq!(about(&other).json()["failed"], 2);

    // Notices and their queue are visible to operators.
    let listed = api.get("/v1/callbacks?state=delivered").json();
    let shown = api.callback(listed["callbacks"][0]["id"].as_str().unwrap());
    assert_eq!(shown["notice"]["type"], "callbacks.failed");
    assert!(shown["body"].is_null(), "{shown}");
    let lane = format!("notify://{}", told.address);
    assert_eq!(
        (shown["url"].clone(), shown["destination"].clone()),
        (json!(format!("{lane}/")), json!(lane))
    );
    for action in ["pause", "resume"] {
        let answer = api.post(&format!("/v1/destinations/{action}"), &json!({"destination": lane}));
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    // The next failure begins another window.
    api.post_lines(&lines(&gone.url("/"), 302..303));
    let puts = told.wait_for(3);
    assert_eq!(puts[2].json()["failed"], 1);
    assert!(puts[2].json()["windowStart"].as_str() >= notice["windowEnd"].as_str());
}

#[test]
fn every_failure_is_reported_once_across_kills() {
    const COUNT: usize = 10_000;
    let told = Receiver::start();
    let gone = Receiver::answering(vec![], Answer::Status(410));
    let mut service = Service::prepare(&settings(&told, "20s", ""));
    service.serve();
    service.api().post_lines(&lines(&gone.url("/"), 0..COUNT));
    for step in 1..4 {
        let some = (COUNT / 4 * step) as u64;
        eventually("some have failed", || {
            (service.api().queue()["failed"].as_u64() >= Some(some)).then_some(())
        });
        service.kill();
        service.serve();
    }
    let puts = eventually("all are told", || {
        let puts = told.puts();
        (failed(&puts) >= COUNT as u64).then_some(puts)
    });
    assert_eq!(failed(&puts), COUNT as u64);
    // There is more than one only if the machine takes longer than a window for all of them.
    let windows: Vec<_> = puts.iter().map(Put::json).collect();
    for pair in windows.windows(2) {
        assert!(pair[0]["windowEnd"].as_str() <= pair[1]["windowStart"].as_str(), "{pair:?}");
    }
}

#[test]
fn a_notice_is_retried_unchanged_until_its_receiver_works() {
    let told =
        Receiver::answering(vec![Answer::Status(503), Answer::Status(503)], Answer::Status(200));
    let mut service = Service::prepare(&settings(&told, "1s", ""));
    service.serve();
    let refused = refused(&service, "http://169.254.169.254/");
    told.wait_for(1);
    service.kill();
    service.serve();
    let puts = told.wait_for(3);
    assert!(puts.iter().all(|put| put.body == puts[0].body), "{puts:#?}");
    let notice = puts[0].json();
    assert_eq!((&notice["failed"], &notice["errorKinds"]), (&json!(1), &json!({"egress": 1})));
    assert_eq!((&notice["firstId"], &notice["lastId"]), (&json!(refused), &json!(refused)));
    eventually("it is delivered", || (service.api().queue()["delivered"] == 1).then_some(()));
}

#[test]
fn failed_notices_and_cancelled_callbacks_cause_no_notice() {
    let told = Receiver::answering(vec![], Answer::Status(410));
    let down = Receiver::answering(vec![], Answer::Status(503));
    let gone = Receiver::answering(vec![], Answer::Status(410));
    let service = Service::start(&settings(&told, "1s", ""));
    let api = service.api();
    let cancelled = api.accept(&event("job_sending", "1", &down.url("/")));
    down.wait_for(1);
    eventually("it is cancelled", || {
        (api.post(&format!("/v1/callbacks/{cancelled}/cancel"), &Value::Null).status == 200)
            .then_some(())
    });
    let first = api.accept(&event("job_sending", "2", &gone.url("/")));
    api.wait_for_state(&first, "failed");
    told.wait_for(1);
    eventually("the notice has failed", || (api.queue()["failed"] == 3).then_some(()));
    // The next window has a notice again, but the failed notice has caused none.
    let second = api.accept(&event("job_sending", "3", &gone.url("/")));
    api.wait_for_state(&second, "failed");
    let puts = told.wait_for(2);
    let about: Vec<_> = puts.iter().map(|put| put.json()["firstId"].clone()).collect();
    assert_eq!(about, [json!(first), json!(second)]);
    eventually("the second notice has failed", || (api.queue()["failed"] == 5).then_some(()));
}

#[test]
fn a_change_of_the_receiver_needs_a_restart() {
    let (told, other) = (Receiver::answering(vec![], Answer::Status(503)), Receiver::start());
    let mut service = Service::prepare(&settings(&told, "1s", ""));
    service.serve();
    service.configure(&settings(&other, "1s", ""));
    let reloaded = service.api().post("/v1/reload", &Value::Null).json();
    assert_eq!(reloaded["restart"], json!(["notify.url"]));
    refused(&service, "http://169.254.169.254/");
    told.wait_for(1);
    assert_eq!(other.count(), 0);
    service.kill();
    service.configure("");
    service.serve();
    let failed = eventually("the notice fails", || {
        let all = service.api().get("/v1/callbacks?state=failed").json();
        let all = all["callbacks"].as_array().unwrap().clone();
        all.into_iter().find(|it| it["destination"].as_str().unwrap().starts_with("notify://"))
    });
    assert_eq!(failed["lastError"]["kind"], "invalid_url");
    assert_eq!(failed["lastError"]["message"], "notify.url is not set");
}

#[test]
fn expired_callbacks_are_reported() {
    let told = Receiver::start();
    let down = Receiver::answering(vec![], Answer::Status(503));
    let retry =
        "[retry]\nmax_age = \"300ms\"\ninitial_interval = \"50ms\"\nmax_interval = \"1h\"\n";
    let service = Service::start(&settings(&told, "2s", retry));
    service.api().post_lines(&lines(&down.url("/"), 0..3));
    let notice = told.wait_for(1)[0].json();
    assert_eq!((&notice["failed"], &notice["errorKinds"]), (&json!(3), &json!({"expired": 3})));
}

#[test]
fn a_producer_cannot_forge_a_notice() {
    let told = Receiver::start();
    let service = Service::start(&settings(&told, "1s", ""));
    let url = format!("notify://{}/?notice=%7B%22failed%22%3A7%7D", told.address);
    refused(&service, &url);
    // It is reported as a callback that can never be sent.
    let puts = told.wait_for(1);
    assert_eq!(
        (puts[0].json()["failed"].clone(), puts[0].json()["destination"].clone()),
        (json!(1), json!(""))
    );
}

#[test]
fn an_invalid_notify_url_is_refused() {
    let service = Service::prepare("notify.url = \"ftp://host/\"\n");
    let output = service.run(&["check-config"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("notify.url") && text.contains("http"), "{text}");
    service.configure("egress.https_only = true\nnotify.url = \"http://host/\"\n");
    let output = service.run(&["check-config"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("is denied: egress.https_only"), "{text}");
    service.configure("notify.url = \"https://user:nobody-may-see-this@host/\"\n");
    let output = service.run(&["check-config"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains("nobody-may-see-this"), "{text}");
}
