//! How callbacks are delivered (docs/receiving-callbacks.md).

use std::{net::TcpListener, time::Duration};

use serde_json::json;

use crate::support::{Answer, PASSWORD, Receiver, Service, event, eventually, unused_address};

#[test]
fn the_seeds_examples_are_sent_byte_for_byte() {
    let (service, receiver) = (Service::start(""), Receiver::start());
    let url = receiver.url("/ourjobmanager/ourjobno/12345");
    let tracker = "http://dpfsrv03:9125/cgi-bin/dpftracker?job=201602231834182304";
    let base = json!({
        "jobId": "4711", "jobIdFs": "201602231834182304", "dpfTrackerUrl": tracker,
        "parameters": {"DpfControlCallbackUrl": url},
    });
    for extra in [
        json!({"event": "job_sending"}),
        json!({"event": "job_finished", "exitStatus": "OK"}),
        json!({"event": "job_finished", "exitStatus": "ERR_EXTERN_PROG_CALL",
            "errorReason": "Error: This CURRFILETYPE -bat- is not supported!"}),
    ] {
        let mut event = base.clone();
        event.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        service.api().accept(&event);
    }
    let puts = receiver.wait_for(3);
    let head = r#"{"jobId":"4711","jobIdFs":"201602231834182304","jobState":"#;
    let tail = format!(r#""dpfTrackerUrl":"{tracker}"}}"#);
    assert_eq!(
        puts[0].body,
        format!(r#"{head}"SENDING","exitStatus":null,"errorReason":null,{tail}"#)
    );
    assert_eq!(
        puts[1].body,
        format!(r#"{head}"FINISHED","exitStatus":"OK","errorReason":null,{tail}"#)
    );
    assert_eq!(
        puts[2].body,
        format!(
            r#"{head}"ERROR","exitStatus":"ERR_EXTERN_PROG_CALL","errorReason":"Error: This CURRFILETYPE -bat- is not supported!",{tail}"#
        )
    );
}

#[test]
fn a_callback_is_a_put_with_the_documented_headers() {
    let (service, receiver) = (Service::start(""), Receiver::start());
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/a/b?c=d")));
    let put = &receiver.wait_for(1)[0];
    assert_eq!((put.method.as_str(), put.path.as_str()), ("PUT", "/a/b?c=d"));
    assert_eq!(put.header("content-type"), "application/json");
    assert_eq!(
        put.header("user-agent"),
        concat!("seal-dpf-urlcallback/", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(put.header("webhook-id"), id);
    assert_eq!(put.header("callback-attempt"), "1");
    assert!(put.header("webhook-timestamp").parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(put.header("webhook-signature"), "");
}

#[test]
fn the_tracker_template_is_used_without_a_page_in_the_event() {
    let template =
        "tracker.url_template = \"http://t:9125/cgi-bin/dpftracker?job={jobIdFs}&id={jobId}\"";
    let (service, receiver) = (Service::start(template), Receiver::start());
    let mut with = event("job_sending", "a b", &receiver.url("/"));
    service.api().accept(&with);
    with["dpfTrackerUrl"] = "http://own/".into();
    service.api().accept(&with);
    let puts = receiver.wait_for(2);
    assert_eq!(
        puts[0].json()["dpfTrackerUrl"],
        "http://t:9125/cgi-bin/dpftracker?job=fs-a%20b&id=a%20b"
    );
    assert_eq!(puts[1].json()["dpfTrackerUrl"], "http://own/");
}

#[test]
fn the_default_page_is_at_this_machine_and_an_empty_template_means_none() {
    let receiver = Receiver::start();
    let host = gethostname::gethostname().into_string().unwrap();
    for (settings, page) in [
        ("", json!(format!("http://{host}:9125/cgi-bin/dpftracker?job=fs-1"))),
        ("tracker.url_template = \"\"", json!(null)),
    ] {
        let service = Service::start(settings);
        let before = receiver.count();
        service.api().accept(&event("job_sending", "1", &receiver.url("/")));
        assert_eq!(receiver.wait_for(before + 1)[before].json()["dpfTrackerUrl"], page);
    }
    let service = Service::start("");
    let env = [("URLCALLBACK__TRACKER__URL_TEMPLATE", "")];
    let output = service.run_with_env(&["check-config"], &env);
    assert!(String::from_utf8(output.stdout).unwrap().contains("url_template = \"\""));
}

#[test]
fn three_503s_delay_the_jobs_next_callback() {
    let service = Service::start("");
    let receiver = Receiver::answering(vec![Answer::Status(503); 3], Answer::Status(200));
    let sending = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    let finished = service.api().accept(&event("job_finished", "1", &receiver.url("/")));
    let puts = receiver.wait_for(5);
    let states: Vec<_> = puts.iter().map(|put| put.job_state()).collect();
    assert_eq!(states, ["SENDING", "SENDING", "SENDING", "SENDING", "FINISHED"]);
    let attempts: Vec<_> = puts.iter().map(|put| put.header("callback-attempt")).collect();
    assert_eq!(attempts, ["1", "2", "3", "4", "1"]);
    assert!(puts[..4].iter().all(|put| put.header("webhook-id") == sending));
    service.api().wait_for_state(&finished, "delivered");
    let callback = service.api().callback(&sending);
    let statuses: Vec<_> =
        callback["attempts"].as_array().unwrap().iter().map(|it| it["status"].clone()).collect();
    assert_eq!(statuses, [503, 503, 503, 200]);
    assert_eq!(callback["attempts"][0]["peer"], receiver.address.to_string());
    assert_eq!(callback["attempts"][0]["error"]["kind"], "status");
}

#[test]
fn a_waiting_callback_names_the_one_it_waits_for() {
    let service = Service::start("");
    let receiver = Receiver::answering(vec![], Answer::Wait);
    let first = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    let second = service.api().accept(&event("job_finished", "1", &receiver.url("/")));
    assert_eq!(service.api().callback(&second)["waitingFor"], first.as_str());
    receiver.wait_for(1);
    receiver.open();
    service.api().wait_for_state(&second, "delivered");
}

#[test]
fn redirects_are_not_followed_and_are_retried() {
    let other = Receiver::start();
    let location = vec![("location", other.url("/elsewhere"))];
    let receiver = Receiver::answering(vec![Answer::With(302, location)], Answer::Status(204));
    let service = Service::start("");
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    let callback = service.api().wait_for_state(&id, "delivered");
    assert_eq!((callback["attemptCount"].as_u64(), other.count()), (Some(2), 0));
}

#[test]
fn a_final_status_is_not_retried() {
    let service = Service::start("");
    let receiver =
        Receiver::answering(vec![Answer::Body(422, b"no such job".into())], Answer::Status(200));
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    let callback = service.api().wait_for_state(&id, "failed");
    assert_eq!(callback["attemptCount"], 1);
    assert_eq!(callback["lastError"]["status"], 422);
    assert_eq!(callback["attempts"][0]["responseExcerpt"], "no such job");
    assert!(callback["finishedAt"].is_string());
}

#[test]
fn a_response_that_is_too_long_is_a_failed_attempt() {
    let settings = "delivery.max_response_bytes = 100\nretry.max_attempts = 1";
    let service = Service::start(settings);
    let receiver = Receiver::answering(vec![], Answer::Body(200, vec![b'x'; 101]));
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    let callback = service.api().wait_for_state(&id, "failed");
    assert_eq!(callback["attempts"][0]["error"]["kind"], "body");
    assert_eq!(callback["lastError"]["kind"], "exhausted");
}

#[test]
fn the_deadline_covers_a_missing_response() {
    let settings = "delivery.timeout = \"100ms\"\ndelivery.connect_timeout = \"100ms\"\nretry.max_attempts = 1";
    let service = Service::start(settings);
    let receiver = Receiver::answering(vec![], Answer::Wait);
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    let callback = service.api().wait_for_state(&id, "failed");
    assert_eq!(callback["attempts"][0]["error"]["kind"], "timeout");
}

#[test]
fn an_expired_callback_keeps_its_last_attempts_error() {
    let settings =
        "retry.max_age = \"400ms\"\nretry.initial_interval = \"50ms\"\nbreaker.failures = 0";
    let service = Service::start(settings);
    let receiver = Receiver::answering(vec![], Answer::Status(500));
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    let callback = service.api().wait_for_state(&id, "failed");
    assert_eq!(callback["lastError"]["kind"], "expired");
    assert_eq!(callback["attempts"][0]["error"]["status"], 500);
}

#[test]
fn retry_after_holds_the_whole_destination() {
    // Also if that callback is not retried.
    for (settings, count) in [("", 3), ("retry.max_attempts = 1", 2)] {
        let service = Service::start(settings);
        let hold = Answer::With(503, vec![("retry-after", "1".into())]);
        let receiver = Receiver::answering(vec![hold], Answer::Status(200));
        service.api().accept(&event("job_sending", "1", &receiver.url("/")));
        receiver.wait_for(1);
        eventually("the hold is known", || {
            service.api().queue()["destinations"][0]["holdUntil"].is_string().then_some(())
        });
        service.api().accept(&event("job_sending", "2", &receiver.url("/")));
        let puts = receiver.wait_for(count);
        for later in &puts[1..] {
            assert!(later.at - puts[0].at >= Duration::from_millis(990), "{settings}");
        }
    }
}

#[test]
fn a_hanging_destination_does_not_delay_others() {
    let service = Service::start("delivery.concurrency = 8\ndelivery.per_destination = 4");
    let (hole, good) = (Receiver::answering(vec![], Answer::Wait), Receiver::start());
    let mut batch = String::new();
    for job in 0..200 {
        batch += &(event("job_sending", &format!("h{job}"), &hole.url("/")).to_string() + "\n");
    }
    for job in 0..200 {
        batch += &(event("job_sending", &format!("g{job}"), &good.url("/")).to_string() + "\n");
    }
    assert_eq!(service.api().post_bytes("application/x-ndjson", batch).status, 200);
    good.wait_for(200);
    assert_eq!(hole.most_at_once(), 4, "the limit of the destination, and not one more");
}

#[test]
fn connections_are_reused() {
    let service = Service::start("delivery.per_destination = 2");
    let receiver = Receiver::start();
    for job in 0..50 {
        service.api().accept(&event("job_sending", &job.to_string(), &receiver.url("/")));
    }
    receiver.wait_for(50);
    // A connection whose response has just arrived may not yet be back in the pool.
    assert!(receiver.connections() <= 10, "{} connections", receiver.connections());
}

#[test]
fn an_open_destination_uses_no_attempts_and_closes_on_a_response() {
    let settings = "breaker.failures = 3\nbreaker.initial_pause = \"100ms\"\nbreaker.max_pause = \"100ms\"\ndelivery.per_destination = 1";
    let service = Service::start(settings);
    let address = unused_address();
    let mut batch = String::new();
    for job in 0..50 {
        batch += &(event("job_sending", &job.to_string(), &format!("http://{address}/"))
            .to_string()
            + "\n");
    }
    service.api().post_bytes("application/x-ndjson", batch);
    eventually("the destination is open", || {
        let open = service.api().queue()["destinations"][0].clone();
        (open["open"] == true && open["nextProbeAt"].is_string()).then_some(())
    });
    let listed = service.api().get("/v1/callbacks?limit=50").json();
    let untouched = listed["callbacks"].as_array().unwrap().iter();
    assert!(untouched.filter(|it| it["attemptCount"] == 0).count() >= 40);
    let receiver =
        Receiver::listening(TcpListener::bind(address).unwrap(), vec![], Answer::Status(200));
    receiver.wait_for(50);
    eventually("the destination is closed", || {
        let queue = service.api().queue();
        (queue["pending"] == 0 && queue["destinations"] == json!([])).then_some(())
    });
}

#[test]
fn credentials_in_a_url_are_sent_and_never_shown() {
    let (service, receiver) = (Service::start(""), Receiver::start());
    let url = format!("http://user:{PASSWORD}%3A@{}/x", receiver.address);
    let id = service.api().accept(&event("job_sending", "1", &url));
    let put = &receiver.wait_for(1)[0];
    let header = data_encoding::BASE64.encode(format!("user:{PASSWORD}:").as_bytes());
    assert_eq!(put.header("authorization"), format!("Basic {header}"));
    let callback = service.api().wait_for_state(&id, "delivered");
    assert_eq!(callback["url"], format!("http://user:***@{}/x", receiver.address));
    let shown = service.run(&["inspect-queue", "--output", "json"]);
    for text in [service.read("service.log"), String::from_utf8(shown.stdout).unwrap()] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

#[test]
fn every_attempt_is_signed_verifiably_by_every_secret() {
    // The seed of RFC 8032's first test vector, and its public key.
    const SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let secrets =
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"];
    let [new, old] = secrets;
    let settings = format!("signing.secrets = [\"{new}\", \"{old}\", \"whsk_{SEED}\"]");
    let service = Service::start(&settings);
    let receiver = Receiver::answering(vec![Answer::Status(503)], Answer::Status(200));
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    for put in receiver.wait_for(2) {
        let other = put.body.replace('1', "2");
        for secret in secrets {
            let webhook = standardwebhooks::Webhook::new(secret).unwrap();
            webhook.verify(put.body.as_bytes(), &put.headers).unwrap();
            assert!(webhook.verify(other.as_bytes(), &put.headers).is_err());
        }
        // The library supports only `v1`.
        let signature = put.header("webhook-signature");
        let signature = signature.split(' ').find_map(|it| it.strip_prefix("v1a,")).unwrap();
        let decode = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).unwrap();
        let content = format!("{id}.{}.{}", put.header("webhook-timestamp"), put.body);
        ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, decode(PUBLIC))
            .verify(content.as_bytes(), &decode(signature))
            .unwrap();
    }
}

#[test]
fn a_destination_gets_its_own_credentials_only() {
    let receiver = Receiver::start();
    let other = Receiver::start();
    let mut service = Service::prepare("");
    std::fs::write(service.path("token"), "geheim\n").unwrap();
    service.configure(&format!("[auth.\"{}\"]\nbearer_token_file = \"token\"", receiver.url("")));
    service.serve();
    service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    service.api().accept(&event("job_sending", "2", &other.url("/")));
    assert_eq!(receiver.wait_for(1)[0].header("authorization"), "Bearer geheim");
    assert_eq!(other.wait_for(1)[0].header("authorization"), "");
}

#[test]
fn credentials_that_are_not_utf_8_are_sent_unchanged() {
    let header = |octets: &[u8]| format!("Basic {}", data_encoding::BASE64.encode(octets));
    let (receiver, other) = (Receiver::answering(vec![], Answer::Echo(422)), Receiver::start());
    let mut service = Service::prepare("");
    std::fs::write(service.path("password"), b"p\xe4ss\n").unwrap();
    service.configure(&format!(
        "[auth.\"{}\"]\nusername = \"u\"\npassword_file = \"password\"",
        other.url("")
    ));
    service.serve();
    let api = service.api();
    let url = format!("http://j%FCrgen:p%E4ss@{}/", receiver.address);
    let id = api.accept(&event("job_sending", "1", &url));
    assert_eq!(receiver.wait_for(1)[0].header("authorization"), header(b"j\xfcrgen:p\xe4ss"));
    // Echoed secrets are not stored.
    let failed = api.wait_for_state(&id, "failed").to_string();
    let secret = data_encoding::BASE64.encode(b"j\xfcrgen:p\xe4ss");
    assert!(failed.contains("***") && !failed.contains(&secret), "{failed}");
    api.accept(&event("job_sending", "2", &other.url("/")));
    assert_eq!(other.wait_for(1)[0].header("authorization"), header(b"u:p\xe4ss"));
}

#[test]
fn every_step_of_a_callback_is_logged_in_ecs_json() {
    let service = Service::start("");
    let receiver =
        Receiver::answering(vec![Answer::Status(503), Answer::Status(422)], Answer::Status(200));
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    service.api().wait_for_state(&id, "failed");
    let other = service.api().accept(&event("job_sending", "2", &receiver.url("/")));
    service.api().wait_for_state(&other, "delivered");
    let lines = eventually("the last line is written", || {
        let lines = service.log();
        lines.iter().any(|line| line["event.action"] == "callback-delivered").then_some(lines)
    });
    let of = |id: &str| -> Vec<_> {
        lines.iter().filter(|line| line["callback.id"] == id).cloned().collect()
    };
    let actions: Vec<_> = of(&id).iter().map(|line| line["event.action"].clone()).collect();
    assert_eq!(actions, ["callback-accepted", "callback-retry", "callback-failed"]);
    let retry = &of(&id)[1];
    assert_eq!(retry["http.response.status_code"], 503);
    assert_eq!(retry["error.type"], "status");
    assert!(retry["callback.next_attempt_at"].is_string());
    for line in &lines {
        for key in ["@timestamp", "log.level", "message", "service.name", "ecs.version"] {
            assert!(line[key].is_string(), "{key} in {line}");
        }
    }
    assert_eq!(of(&other)[1]["event.outcome"], "success");
}

#[test]
fn a_destination_without_callbacks_is_not_shown_as_open() {
    let settings = "breaker.failures = 3\nretry.final_statuses = [501]";
    let service = Service::start(settings);
    let receiver = Receiver::answering(vec![Answer::Status(501); 3], Answer::Status(200));
    let api = service.api();
    let lines: String = (0..3)
        .map(|job| event("job_sending", &job.to_string(), &receiver.url("/")).to_string() + "\n")
        .collect();
    api.post_lines(&lines);
    let opened = |line: &serde_json::Value| line["event.action"] == "destination-open";
    eventually("it opens", || service.log().iter().any(opened).then_some(()));
    eventually("all have failed, and it is not open", || {
        let destination = &api.queue()["destinations"][0];
        (destination["failed"] == 3 && destination["open"] == false).then_some(())
    });
    let id = api.accept(&event("job_sending", "4", &receiver.url("/")));
    api.wait_for_state(&id, "delivered");
}
