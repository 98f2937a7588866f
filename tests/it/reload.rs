//! A reload: the settings are read again, all or none.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::support::{Answer, Api, Receiver, Response, Service, event, eventually};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn reload(api: &Api) -> Response {
    api.post("/v1/reload", &Value::Null)
}

/// A successful reload. Returns what has changed, and what needs a restart.
fn reloaded(api: &Api) -> [Value; 2] {
    let response = reload(api);
    assert_eq!(response.status, 200, "{response:?}");
    let view = response.json();
    [view["changed"].clone(), view["restart"].clone()]
}

/// Submits a callback and waits until it has ended.
fn ended(api: &Api, job: &str, url: &str, state: &str) -> Value {
    let id = api.accept(&event("job_sending", job, url));
    api.wait_for_state(&id, state)
}

#[test]
fn a_reload_reports_what_has_changed_and_what_needs_a_restart() {
    let service = Service::start("[retry]\nmax_attempts = 1\n");
    let api = service.api();
    assert_eq!(reloaded(&api), [json!([]), json!([])]);
    let changed = "api.idle_timeout = \"9s\"\n[retry]\nmax_attempts = 2\nmax_age = \"1h\"\n";
    service.configure(&changed.replace(
        "api.idle_timeout",
        "outbox.max_pending = 7\n[api]\nlisten = \"127.0.0.1:0\"\nidle_timeout",
    ));
    let expected = [
        json!(["retry.max_age", "retry.max_attempts"]),
        json!(["api.idle_timeout", "outbox.max_pending"]),
    ];
    assert_eq!(reloaded(&api), expected);
    assert_eq!(reloaded(&api), [json!([]), expected[1].clone()], "still not in effect");
    let said = service.run(&["reload"]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said, "needs a restart: api.idle_timeout\nneeds a restart: outbox.max_pending\n");
}

#[test]
fn settings_of_delivery_are_replaced_during_delivery() {
    let receiver = Receiver::answering(vec![], Answer::Status(503));
    let slow = Receiver::answering(vec![], Answer::Wait);
    let general = "[retry]\ninitial_interval = \"20ms\"\nmax_interval = \"20ms\"\n";
    let service = Service::start(&format!("{general}max_attempts = 1\n"));
    let api = service.api();
    assert_eq!(ended(&api, "1", &receiver.url("/"), "failed")["attemptCount"], 1);
    assert_eq!(receiver.puts()[0].header("webhook-signature"), "");
    for job in 0..40 {
        api.accept(&event("job_sending", &format!("slow-{job}"), &slow.url("/")));
    }
    slow.wait_for(16);
    service.configure(&format!(
        "breaker.failures = 0\nsigning.secrets = [\"{SECRET}\"]\ntracker.url_template = \"http://t/{{jobId}}\"\n\
         {general}max_attempts = 3\n[delivery]\nper_destination = 30\n\
         [destinations.\"{}\"]\nheaders = {{ x-tenant = \"dpf\" }}\n",
        receiver.url("")
    ));
    let [changed, restart] = reloaded(&api);
    let keys = [
        "tracker.url_template",
        "delivery.per_destination",
        "retry.max_attempts",
        "breaker.failures",
        "destinations",
        "signing.secrets",
    ];
    assert_eq!((&changed, restart), (&json!(keys), json!([])));
    // Waiting callbacks are sent at once.
    slow.wait_for(30);
    let callback = ended(&api, "2", &receiver.url("/"), "failed");
    assert_eq!(
        (&callback["attemptCount"], &callback["body"]["dpfTrackerUrl"]),
        (&3.into(), &"http://t/2".into())
    );
    let put = receiver.puts().pop().unwrap();
    assert!(put.header("webhook-signature").starts_with("v1,"), "{put:?}");
    assert_eq!(put.header("x-tenant"), "dpf");
    slow.open();
    eventually("the others are delivered", || (api.queue()["delivered"] == 40).then_some(()));

    let [other, text] =
        [OTHER, SECRET].map(|secret| service.read("config.toml").replace(SECRET, secret));
    assert_eq!(text, service.read("config.toml"));
    fs::write(service.path("config.toml"), other).unwrap();
    assert_eq!(reloaded(&api), [json!(["signing.secrets"]), json!([])], "not shown, but seen");
}

#[test]
fn more_slots_are_used_at_once() {
    let service = Service::start("delivery.concurrency = 8\n");
    let hanging: Vec<_> = (0..4).map(|_| Receiver::answering(vec![], Answer::Wait)).collect();
    for receiver in &hanging {
        for job in 0..4 {
            let url = receiver.url("/");
            service.api().accept(&event("job_sending", &format!("{url}{job}"), &url));
        }
    }
    let under_way = || hanging.iter().map(Receiver::count).sum::<usize>();
    eventually("all slots but one are taken", || (under_way() == 7).then_some(()));
    service.configure("delivery.concurrency = 64\n");
    assert_eq!(reloaded(&service.api())[1], json!([]), "no restart is needed");
    eventually("all are sent", || (under_way() == 16).then_some(()));
    hanging.iter().for_each(Receiver::open);
}

#[test]
fn what_waits_for_its_rate_is_sent_at_once_when_the_rate_is_raised() {
    let receiver = Receiver::start();
    let section = |rate: &str| {
        format!("[destinations.\"{}\"]\nrequests_per_second = {rate}\n", receiver.url(""))
    };
    let service = Service::start(&section("0.001"));
    let api = service.api();
    ended(&api, "1", &receiver.url("/"), "delivered");
    let waits = api.accept(&event("job_sending", "2", &receiver.url("/")));
    // What is accepted later is delivered, so the loop knows of it.
    ended(&api, "3", &Receiver::start().url("/"), "delivered");
    assert_eq!(receiver.count(), 1);
    service.configure(&section("100"));
    assert_eq!(reloaded(&api), [json!(["destinations"]), json!([])]);
    api.wait_for_state(&waits, "delivered");
}

#[test]
fn egress_and_the_level_of_the_log_are_replaced() {
    let receiver = Receiver::start();
    let service = Service::start("log.level = \"warn\"\n");
    let api = service.api();
    ended(&api, "1", &receiver.url("/"), "delivered");
    service.configure("egress.deny = [\"127.0.0.0/8\"]\nlog.level = \"info\"\n");
    assert_eq!(reloaded(&api), [json!(["egress.deny", "log.level"]), json!([])]);
    let refused = api.post("/v1/events", &event("job_sending", "2", &receiver.url("/")));
    assert_eq!(refused.status, 422, "{refused:?}");
    // The name is checked when it is resolved.
    let by_name = receiver.url("/").replace("127.0.0.1", "localhost");
    assert_eq!(ended(&api, "3", &by_name, "failed")["lastError"]["kind"], "egress");
    assert_eq!(receiver.count(), 1);
    let logged = |action: &str| service.log().iter().any(|line| line["event.action"] == action);
    eventually("the log has more", || logged("callback-accepted").then_some(()));
    assert!(!logged("callback-delivered"), "that was before");
}

#[test]
fn a_faulty_file_changes_nothing_and_is_explained() {
    const READ: &str = "a-token-that-only-looks";
    let receiver = Receiver::answering(vec![], Answer::Status(500));
    let good = "api.read_token_file = \"reader\"\nretry.max_attempts = 1\n";
    let mut service = Service::prepare(good);
    fs::write(service.path("reader"), READ).unwrap();
    service.serve();
    let api = service.api();
    service.configure(&format!(
        "{good}egress.deny = [\"127.0.0.0/8\"]\nlog.level = \"loud\"\n[destinations.\"http://h\"]\nca_file = \"no\"\n"
    ));
    let response = reload(&api);
    assert_eq!(
        (response.status, response.header("content-type")),
        (422, "application/problem+json")
    );
    let problem = response.json();
    let faults = problem["faults"].as_array().unwrap();
    let keys: Vec<_> = faults.iter().map(|it| it["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["destinations.\"http://h:80\".ca_file", "log.level"]);
    assert_eq!(
        (&faults[1]["place"], problem["status"].as_u64()),
        (&"config.toml".into(), Some(422))
    );
    let message = "is \"loud\", and has to be error, warn, info, debug, trace or off";
    assert_eq!(faults[1]["message"], message);
    assert_eq!(
        ended(&api, "1", &receiver.url("/"), "failed")["lastError"]["kind"],
        "exhausted",
        "egress has not changed"
    );
    let log = service.log();
    let line = log.iter().find(|line| line["event.action"] == "settings-reloaded").unwrap();
    assert_eq!((&line["log.level"], &line["event.outcome"]), (&"error".into(), &"failure".into()));
    assert!(line["error.message"].as_str().unwrap().contains(message), "{line}");

    // Valid by itself, but the token is not.
    service.configure(&format!("{good}egress.https_only = true\n"));
    let token = service.read("data/api-token");
    fs::write(service.path("data/api-token"), "short").unwrap();
    let problem = reload(&api).json();
    assert_eq!(problem["faults"][0]["key"], "api.token_file", "{problem}");
    fs::write(service.path("data/api-token"), token).unwrap();
    let plain = api.post("/v1/events", &event("job_sending", "2", &receiver.url("/")));
    assert_eq!(plain.status, 202, "{plain:?}");
    assert_eq!(reloaded(&api)[0], json!(["egress.https_only"]));
    let reader = Api { token: READ.into(), ..api.clone() };
    assert_eq!(
        (reload(&reader).status, api.request("POST", "/v1/reload", None, "", "").status),
        (403, 401)
    );
}

#[test]
fn the_command_has_an_exit_code_for_each_outcome() {
    let mut service = Service::start("");
    let code = |service: &Service| {
        let output = service.run(&["reload"]);
        let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        (output.status.code(), out, err)
    };
    assert_eq!(code(&service), (Some(0), "nothing has changed\n".into(), String::new()));
    service.configure("breaker.failures = 7\n");
    assert_eq!(code(&service), (Some(0), "changed: breaker.failures\n".into(), String::new()));
    let view = service.json(&["reload", "--output", "json"]);
    assert_eq!(view, json!({"changed": [], "restart": [], "warnings": []}));
    service.configure("breaker.failures = \"x\"\n");
    let (exit, out, err) = code(&service);
    assert_eq!((exit, out.as_str()), (Some(2), ""));
    assert!(err.contains("breaker.failures (config.toml): "), "{err}");
    // The command's own settings are valid, and the service's are not.
    fs::write(service.path("good.toml"), "data_dir = \"data\"\nlog.file = \"-\"\n").unwrap();
    let output = service.run(&["--config", "good.toml", "reload"]);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(
        err.contains("nothing has changed:\n  breaker.failures (config.toml): is a text"),
        "{err}"
    );
    service.configure("");
    service.terminate();
    assert_eq!(code(&service), (Some(3), String::new(), "not running\n".into()));
}

#[cfg(unix)]
#[test]
fn a_signal_reloads_and_the_content_of_files_is_seen() {
    let receiver = Receiver::start();
    let mut service = Service::prepare("");
    fs::write(service.path("token"), "old-token").unwrap();
    let settings =
        format!("[destinations.\"{}\"]\nbearer_token_file = \"token\"\n", receiver.url(""));
    service.configure(&settings);
    service.serve();
    let api = service.api();
    fs::write(service.path("token"), "new-token").unwrap();
    service.signal("HUP");
    let line = eventually("the log says so", || {
        service.log().into_iter().find(|line| line["event.action"] == "settings-reloaded")
    });
    assert_eq!(
        (&line["settings.changed"], &line["settings.restart"]),
        (&json!(["destinations"]), &json!([]))
    );
    ended(&api, "1", &receiver.url("/"), "delivered");
    assert_eq!(receiver.puts()[0].header("authorization"), "Bearer new-token");
}

#[test]
fn a_pause_longer_than_the_store_expects_needs_a_restart() {
    let service = Service::start("[retry]\nmax_retry_after = \"10m\"\nmax_interval = \"20m\"\n");
    let api = service.api();
    let set = |pause: &str, failures: u32| {
        service.configure(&format!(
            "breaker.failures = {failures}\n[retry]\nmax_retry_after = \"10m\"\nmax_interval = \"{pause}\"\n"
        ));
        reloaded(&api)
    };
    assert_eq!(set("1h", 7), [json!(["breaker.failures"]), json!(["retry.max_interval"])]);
    assert_eq!(set("1m", 7), [json!(["retry.max_interval"]), json!([])]);
    assert_eq!(set("20m", 7), [json!(["retry.max_interval"]), json!([])]);
}

#[test]
fn pauses_that_need_a_restart_stay_as_they_were() {
    let hour = vec![("retry-after", "3600".to_owned())];
    let [general, told, section] =
        [Answer::Status(503), Answer::With(503, hour), Answer::Status(503)]
            .map(|first| Receiver::answering(vec![first], Answer::Status(200)));
    let settings = |pause: &str| {
        format!(
            "[retry]\ninitial_interval = \"{pause}\"\nmax_interval = \"{pause}\"\nmax_retry_after = \"{pause}\"\n\
             jitter = 0\n[destinations.\"{}\"]\nmax_attempts = 9\n",
            section.url("")
        )
    };
    let service = Service::start(&settings("1s"));
    let api = service.api();
    service.configure(&settings("1h"));
    let needs = json!(["retry.max_interval", "retry.max_retry_after"]);
    assert_eq!(reloaded(&api), [json!(["retry.initial_interval"]), needs]);
    for (job, receiver) in [general, told, section].into_iter().enumerate() {
        ended(&api, &job.to_string(), &receiver.url("/"), "delivered");
        let [first, second] = &receiver.puts()[..] else { panic!("{:?}", receiver.puts()) };
        let pause = second.at.duration_since(first.at);
        assert!(pause > Duration::from_millis(900), "{job}: {pause:?}");
    }
}

#[test]
fn settings_from_a_pipe_cannot_be_read_again() {
    let mut service = Service::prepare("");
    let text = service.read("config.toml");
    fs::rename(service.path("config.toml"), service.path("settings")).unwrap();
    let shell = "exec \"$0\" --config /dev/stdin serve < <(cat settings)";
    service.serve_by(&["bash", "-c", shell]);
    assert!(!Path::new(&service.path("config.toml")).exists() && !text.is_empty());
    let problem = reload(&service.api()).json();
    let message = "/dev/stdin is not a regular file, and can be read only once";
    assert_eq!(problem["faults"][0]["message"], message, "{problem}");
}
