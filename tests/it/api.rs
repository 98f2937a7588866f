//! The HTTP API, mainly with invalid input.

use serde_json::{Value, json};

use crate::support::{Answer, Receiver, Service, event};

const NDJSON: &str = "application/x-ndjson";

#[test]
fn every_path_except_health_checks_requires_the_token() {
    let service = Service::start("");
    let api = service.api();
    for token in
        [None, Some("Bearer wrong"), Some("Basic x"), Some(&*format!("Bearer {}x", api.token))]
    {
        for path in ["/v1/queue", "/v1/callbacks", "/v1/openapi.json", "/nothing"] {
            let answer = api.request("GET", path, token, "", "");
            assert_eq!(answer.status, 401, "{path} {token:?}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(api.request("GET", path, None, "", "").status, 200, "{path}");
    }
}

#[cfg(unix)]
#[test]
fn the_token_is_created_once_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut service = Service::start("");
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(service.path("data/api-token")), 0o600);
    assert_eq!(mode(service.path("data")), 0o700);
    let token = service.api().token;
    assert_eq!(data_encoding::BASE64URL_NOPAD.decode(token.as_bytes()).unwrap().len(), 32);
    service.terminate();
    service.serve();
    assert_eq!(service.api().token, token);
}

#[test]
fn each_event_has_its_documented_outcome_and_status() {
    let service = Service::start("egress.deny = [\"10.0.0.0/8\"]");
    let receiver = Receiver::start();
    let url = receiver.url("/");
    let mut keyed = event("job_sending", "1", &url);
    keyed["eventId"] = "key".into();
    let long = "x".repeat(300);
    let with = |key: &str, value: Value| {
        let mut event = event("job_finished", "1", &url);
        event[key] = value;
        event
    };
    let cases = [
        (keyed.clone(), 202, "accepted"),
        (keyed, 200, "duplicate"),
        (json!({"event": "job_added"}), 200, "ignored"),
        (with("parameters", json!({})), 200, "ignored"),
        (event("job_sending", "1", "ftp://host/"), 422, "failed"),
        (event("job_sending", "1", "no url"), 422, "failed"),
        (event("job_sending", "1", "http://10.1.2.3/"), 422, "failed"),
        (with("jobId", json!("")), 422, "refused"),
        (with("jobId", json!(long)), 422, "refused"),
        (with("jobIdFs", json!(null)), 422, "refused"),
        (with("exitStatus", json!(null)), 422, "refused"),
        (with("jobState", json!("SENDING")), 422, "refused"),
        (with("jobId", json!(7)), 400, "refused"),
        (with("parameters", json!("x")), 400, "refused"),
        (json!([]), 400, "refused"),
        (json!({}), 422, "refused"),
    ];
    for (event, status, outcome) in cases {
        let answer = service.api().post("/v1/events", &event);
        assert_eq!(answer.status, status, "{event}: {answer:?}");
        assert_eq!(answer.json()["outcome"], outcome, "{event}");
        let stored = matches!(outcome, "accepted" | "duplicate" | "failed");
        assert_eq!(answer.json()["id"].is_string(), stored, "{event}");
        let problem = status >= 400;
        assert_eq!(answer.header("content-type") == "application/problem+json", problem);
        if outcome == "failed" {
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            let callback = service.api().callback(&id);
            assert_eq!(callback["state"], "failed");
            assert!(callback["lastError"]["message"].is_string());
        }
    }
}

#[test]
fn malformed_bodies_get_a_clear_problem() {
    let service = Service::start("");
    let api = service.api();
    for (kind, body, status) in [
        ("application/json", "{\"event\":".as_bytes().to_vec(), 400),
        ("application/json", b"\xff\xfe".to_vec(), 400),
        ("application/json", Vec::new(), 400),
        ("application/json", vec![b' '; 65_537], 413),
        ("text/plain", b"{}".to_vec(), 415),
        ("", b"{}".to_vec(), 415),
    ] {
        let answer = api.post_bytes(kind, body);
        assert_eq!(answer.status, status, "{kind}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert!(!answer.json()["detail"].as_str().unwrap().is_empty());
    }
    assert_eq!(api.get("/nothing").status, 404);
    assert_eq!(api.get("/v1/events").status, 405);
    for path in [
        "/v1/callbacks/x",
        "/v1/callbacks?limit=0",
        "/v1/callbacks?state=no",
        "/v1/callbacks?what=1",
        "/v1/callbacks?since=soon",
    ] {
        assert_eq!(api.get(path).status, 400, "{path}");
    }
    let unknown = api.get("/v1/callbacks/00000000000000000000000000");
    assert_eq!(unknown.status, 404);
    for path in ["/nothing", "/v1/events", "/v1/callbacks/x", "/v1/callbacks/%ff"] {
        assert_eq!(api.get(path).header("content-type"), "application/problem+json", "{path}");
    }
}

#[test]
fn a_bad_line_of_a_batch_is_refused_by_its_number() {
    let service = Service::start("");
    let receiver = Receiver::start();
    let mut batch = Vec::new();
    for line in 1..=3000 {
        match line {
            1000 => batch.extend_from_slice(b"{\"event\":\xff}"),
            1001 => batch.extend_from_slice(&vec![b'x'; 100_000]),
            1002 => {}
            1003 => batch.extend_from_slice(b"{\"event\":\"job_finished\"}"),
            _ => batch.extend_from_slice(
                event("job_sending", &line.to_string(), &receiver.url("/")).to_string().as_bytes(),
            ),
        }
        batch.extend_from_slice(if line % 2 == 0 { b"\n" } else { b"\r\n" });
    }
    let answer = service.api().post_bytes(NDJSON, batch);
    assert_eq!((answer.status, answer.header("content-type")), (200, NDJSON));
    let lines = answer.lines();
    assert_eq!(lines.len(), 2999, "a blank line has no answer");
    let refused: Vec<_> =
        lines.iter().filter(|it| it["outcome"] == "refused").map(|it| it["line"].clone()).collect();
    assert_eq!(refused, [1000, 1001, 1003]);
    assert!(
        lines.iter().filter(|it| it["outcome"] == "refused").all(|it| it["reason"].is_string())
    );
    receiver.wait_for(2996);
}

#[test]
fn a_batch_over_the_limit_is_refused_with_413() {
    let service = Service::start("api.max_batch_bytes = 1000\napi.max_event_bytes = 500");
    let answer = service.api().post_bytes(NDJSON, vec![b'\n'; 1001]);
    assert_eq!(answer.status, 413);
}

#[test]
fn callbacks_are_listed_newest_first_filtered_and_in_pages() {
    let service = Service::start("retry.max_attempts = 1");
    let (good, bad) = (Receiver::start(), Receiver::answering(vec![], Answer::Status(500)));
    let api = service.api();
    let mut ids = Vec::new();
    for job in 0..10 {
        let to = if job % 2 == 0 { &good } else { &bad };
        ids.push(api.accept(&event("job_sending", &job.to_string(), &to.url("/"))));
    }
    for (job, id) in ids.iter().enumerate() {
        api.wait_for_state(id, if job % 2 == 0 { "delivered" } else { "failed" });
    }
    let list = |query: &str| -> Vec<String> {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("/v1/callbacks?limit=3{query}{cursor}")).json();
            let callbacks = page["callbacks"].as_array().unwrap();
            assert!(callbacks.len() <= 3);
            found.extend(callbacks.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found,
            }
        }
    };
    let newest = |pick: &dyn Fn(usize) -> bool| -> Vec<String> {
        ids.iter().enumerate().filter(|(n, _)| pick(*n)).map(|(_, id)| id.clone()).rev().collect()
    };
    assert_eq!(list(""), newest(&|_| true));
    assert_eq!(list("&state=failed"), newest(&|n| n % 2 == 1));
    assert_eq!(list(&format!("&destination={}", good.url(""))), newest(&|n| n % 2 == 0));
    assert_eq!(list("&jobId=4"), newest(&|n| n == 4));
    assert_eq!(list("&since=1h"), newest(&|_| true));
    assert_eq!(list("&since=2999-01-01T00:00:00Z"), Vec::<String>::new());
}

#[test]
fn failed_callbacks_are_replayed_with_their_history_and_pending_ones_cancelled() {
    let service = Service::start("retry.max_attempts = 1\nbreaker.failures = 0");
    let receiver = Receiver::answering(vec![Answer::Status(500)], Answer::Status(200));
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    api.wait_for_state(&id, "failed");
    let filter = json!({"filter": {"ids": [id]}, "dryRun": true});
    assert_eq!(
        api.post("/v1/callbacks/replay", &filter).json(),
        json!({"matched": 1, "replayed": 0})
    );
    assert_eq!(api.post("/v1/callbacks/replay", &json!({"filter": {}})).status, 400);
    let all = json!({"filter": {"all": true}});
    assert_eq!(api.post("/v1/callbacks/replay", &all).json(), json!({"matched": 1, "replayed": 1}));
    let callback = api.wait_for_state(&id, "delivered");
    assert_eq!(callback["replays"], 1);
    assert_eq!(callback["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(receiver.puts()[1].header("callback-attempt"), "2");

    let hole = Receiver::answering(vec![], Answer::Wait);
    let first = api.accept(&event("job_sending", "2", &hole.url("/")));
    let second = api.accept(&event("job_finished", "2", &hole.url("/")));
    hole.wait_for(1);
    let cancel = |id: &str| api.post(&format!("/v1/callbacks/{id}/cancel"), &json!({}));
    assert_eq!(cancel(&first).status, 409);
    let cancelled = cancel(&second);
    assert_eq!(
        (cancelled.status, &cancelled.json()["lastError"]["kind"]),
        (200, &"cancelled".into())
    );
    assert_eq!(cancel(&second).status, 409);
}

#[test]
fn metrics_are_prometheus_text_with_bounded_labels() {
    let service = Service::start("metrics.destinations = 1\nbreaker.failures = 1");
    let good = Receiver::start();
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &good.url("/")));
    api.wait_for_state(&id, "delivered");
    api.post("/v1/events", &json!({"event": "job_added"}));
    for (job, host) in [("2", "http://127.0.0.1:1"), ("3", "http://127.0.0.2:1")] {
        api.accept(&event("job_sending", job, host));
    }
    let text = crate::support::eventually("both are open", || {
        let text = String::from_utf8(api.get("/metrics").body).unwrap();
        text.contains("urlcallback_destinations_open 2").then_some(text)
    });
    for line in [
        "urlcallback_events_total{outcome=\"accepted\"} 3",
        "urlcallback_events_total{outcome=\"ignored\"} 1",
        "urlcallback_attempts_total{result=\"success\"} 1",
        "urlcallback_callbacks_ended_total{state=\"delivered\"} 1",
        "urlcallback_callbacks{state=\"pending\"} 2",
        "urlcallback_callbacks{state=\"delivered\"} 1",
        "urlcallback_accept_to_delivered_seconds_count 1",
        "urlcallback_attempt_duration_seconds_bucket{le=\"+Inf\"}",
        "urlcallback_commit_batch_size_count",
        "urlcallback_connections_opened_total",
        "urlcallback_connections_reused_total",
        "urlcallback_store_bytes",
        "urlcallback_ready 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let own = text.lines().filter(|line| line.starts_with("urlcallback_destination_pending{"));
    assert_eq!(own.count(), 1, "{text}");
    assert_eq!(api.request("GET", "/metrics", None, "", "").status, 401);
}

/// The status of the answer to a request that is written as it is.
fn raw(service: &Service, head: &str) -> String {
    use std::io::{Read as _, Write as _};
    let api = service.api();
    let mut stream = std::net::TcpStream::connect(api.address).unwrap();
    let head = head.replace("TOKEN", &api.token);
    write!(stream, "{head}connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_http_1_1_request_needs_one_valid_host() {
    let service = Service::start("");
    let ask = |version: &str, hosts: &str| {
        let answer = raw(
            &service,
            &format!("GET /v1/queue HTTP/{version}\r\n{hosts}authorization: Bearer TOKEN\r\n"),
        );
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    for hosts in ["host: h\r\n", "host: h:9126\r\n", "host: [::1]:9126\r\n", "host: \r\n"] {
        assert_eq!(ask("1.1", hosts), "200", "{hosts:?}");
    }
    for hosts in [
        "",
        "host: h\r\nhost: h\r\n",
        "host: a b\r\n",
        "host: h/x\r\n",
        "host: u@h\r\n",
        "host: h:port\r\n",
        "host: [::1\r\n",
        "host: \u{e9}\r\n",
    ] {
        assert_eq!(ask("1.1", hosts), "400", "{hosts:?}");
    }
    assert_eq!(ask("1.0", ""), "200");
    let health = raw(&service, "GET /healthz HTTP/1.1\r\n");
    assert!(health.starts_with("HTTP/1.1 400") && health.contains("problem+json"), "{health}");
}

#[test]
fn several_spaces_before_the_token_are_accepted() {
    let service = Service::start("");
    let api = service.api();
    for (token, status) in [
        (format!("Bearer  {}", api.token), 200),
        (format!("bearer    {}", api.token), 200),
        (format!("Bearer {}x", api.token), 401),
        (format!("Bearer{}", api.token), 401),
    ] {
        assert_eq!(api.request("GET", "/v1/queue", Some(&token), "", "").status, status, "{token}");
    }
}

#[test]
fn an_encoded_body_is_refused_everywhere() {
    let service = Service::start("");
    for path in ["/v1/events", "/v1/callbacks/replay", "/v1/callbacks/x/cancel", "/v1/export"] {
        for (encoding, refused) in
            [("gzip", true), ("identity, br", true), ("x", true), ("identity", false)]
        {
            let answer = raw(
                &service,
                &format!(
                    "POST {path} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer TOKEN\r\n\
                     content-type: application/x-ndjson\r\ncontent-encoding: {encoding}\r\n\
                     content-length: 0\r\n"
                ),
            );
            let unsupported = answer.starts_with("HTTP/1.1 415") && answer.contains("encoding");
            assert_eq!(unsupported, refused, "{path} {encoding}: {answer}");
        }
    }
}
