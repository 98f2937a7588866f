//! The read-only token (`api.read_token_file`) permits reads and no action.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Output,
};

use serde_json::{Value, json};

use crate::support::{Answer, Api, Receiver, Response, Service, event, eventually};

const READ_TOKEN: &str = "a-token-that-only-looks";

const SETTINGS: &str = "api.read_token_file = \"read-token\"";

/// A folder with a read-only token; nothing runs yet.
fn prepare(settings: &str) -> Service {
    let service = Service::prepare(&format!("{SETTINGS}\n{settings}"));
    fs::write(service.path("read-token"), format!("{READ_TOKEN}\n")).unwrap();
    service
}

fn start(settings: &str) -> Service {
    let mut service = prepare(settings);
    service.serve();
    service
}

/// The API, used with this token.
fn with_token(service: &Service, token: &str) -> Api {
    Api { token: token.into(), ..service.api() }
}

fn ask(api: &Api, method: &str, path: &str, body: &Value) -> Response {
    api.ask(method, path, "application/json", &body.to_string()).unwrap()
}

/// The methods and paths of the `OpenAPI` document.
fn operations(document: &Value) -> Vec<(String, String)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let all = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        methods.map(move |method| (method.to_uppercase(), path.clone()))
    });
    all.collect()
}

/// A service with a failed callback and a postponed one, on which every action has an effect.
struct Scene {
    service: Service,
    receiver: Receiver,
    pending: String,
}

impl Scene {
    fn new() -> Self {
        let service = start("retry.initial_interval = \"1h\"\nretry.max_interval = \"2h\"");
        let answers = vec![Answer::Status(422), Answer::Status(503)];
        let receiver = Receiver::answering(answers, Answer::Status(200));
        let api = service.api();
        let failed = api.accept(&event("job_sending", "1", &receiver.url("/")));
        api.wait_for_state(&failed, "failed");
        let pending = api.accept(&event("job_sending", "2", &receiver.url("/")));
        eventually("it is postponed", || {
            (api.callback(&pending)["attemptCount"] == 1).then_some(())
        });
        Self { service, receiver, pending }
    }

    fn path(&self, path: &str) -> String {
        path.replace("{id}", &self.pending)
    }

    /// A body that has an effect with the operator's token.
    fn body(&self, path: &str) -> Value {
        match path {
            "/v1/events" => event("job_sending", "3", &self.receiver.url("/")),
            _ if path.starts_with("/v1/destinations/") => {
                json!({"destination": self.receiver.url("")})
            }
            _ => json!({"filter": {"all": true}}),
        }
    }

    /// The state that an action would change.
    fn state(&self) -> Value {
        let api = self.service.api();
        let entries = fs::read_dir(self.service.path("data")).unwrap();
        let mut files: Vec<_> = entries.map(|it| it.unwrap().file_name()).collect();
        files.sort();
        json!({
            "callbacks": api.get("/v1/callbacks").json(),
            "paused": api.get("/v1/destinations").json()["destinations"][0]["paused"],
            "pending": api.queue()["pending"],
            "puts": self.receiver.puts().len(),
            "files": format!("{files:?}"),
        })
    }
}

#[test]
fn the_read_only_token_opens_every_get_and_nothing_else() {
    let scene = Scene::new();
    let (operator, reader) = (scene.service.api(), with_token(&scene.service, READ_TOKEN));
    let document = reader.get("/v1/openapi.json").json();
    let operations = operations(&document);
    let (reads, acts): (Vec<_>, Vec<_>) =
        operations.iter().partition(|(method, _)| method == "GET");
    assert!(reads.len() >= 7 && acts.len() >= 8, "{operations:?}");
    let before = scene.state();

    let documented = reads.iter().map(|(_, path)| path.as_str());
    for path in documented.chain(["/v1/openapi.json"]) {
        let path = scene.path(path);
        for method in ["GET", "HEAD"] {
            let statuses =
                [&reader, &operator].map(|api| ask(api, method, &path, &Value::Null).status);
            assert_eq!(statuses, [200, 200], "{method} {path}");
        }
    }
    assert_eq!(reader.get("/nothing").status, 404);

    let everywhere = operations.iter().map(|(_, path)| path.as_str());
    for path in everywhere.chain(["/v1/openapi.json", "/nothing"]) {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let answer = ask(&reader, method, &scene.path(path), &scene.body(path));
            assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains("this token may only read"), "{detail}");
        }
    }
    assert_eq!(scene.state(), before, "something was done");
    for (method, path) in &operations {
        let listed = document["paths"][path][method.to_lowercase()]["responses"]["403"].is_object();
        assert_eq!(listed, method != "GET", "403 of {method} {path}");
    }

    // Each of these requests is otherwise valid.
    for (method, path) in acts {
        let answer = ask(&operator, method, &scene.path(path), &scene.body(path));
        assert!(matches!(answer.status, 200 | 202 | 409), "{method} {path}: {answer:?}");
    }
    assert_ne!(scene.state(), before);
}

#[test]
fn a_command_with_the_read_only_token_reads_and_reports_why_it_cannot_act() {
    let scene = Scene::new();
    let service = &scene.service;
    // Settings with the read-only token only.
    service.configure("api.token_file = \"read-token\"");
    let shown = service.json(&["inspect-queue", "--output", "json"]);
    assert_eq!(shown["queue"]["pending"], 1);
    for command in [["cancel", "--all"].as_slice(), &["pause", "--destination", "http://h:80"]] {
        let output = service.run(command);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("this token may only read"), "{said}");
    }
}

#[test]
fn unknown_tokens_are_refused_beside_a_read_only_one() {
    let service = start("");
    let operator = service.api().token;
    for token in [
        "",
        "x",
        &format!("{READ_TOKEN}x"),
        &READ_TOKEN[1..],
        &READ_TOKEN.to_uppercase(),
        &format!("{READ_TOKEN}{operator}"),
        &format!("{READ_TOKEN} {operator}"),
    ] {
        let api = with_token(&service, token);
        for method in ["GET", "POST"] {
            let answer = ask(&api, method, "/v1/queue", &Value::Null);
            assert_eq!(answer.status, 401, "{method} {token}");
        }
    }
    // Without the setting, there is no second token.
    let service = Service::start("");
    for token in [READ_TOKEN, "", " "] {
        assert_eq!(with_token(&service, token).get("/v1/queue").status, 401, "{token:?}");
    }
}

#[test]
fn the_body_of_a_refused_request_is_not_read() {
    let service = start("");
    let mut client = TcpStream::connect(service.api().address).unwrap();
    client.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    write!(
        client,
        "POST /v1/events HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {READ_TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: 60000\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    drop(client.read_to_end(&mut answer));
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(!answer.contains(READ_TOKEN), "{answer}");
}

/// The time of an unauthenticated connection is 15 seconds at most.
#[test]
fn a_connection_with_the_read_only_token_stays() {
    let service = start("");
    let ask = |client: &mut TcpStream| {
        write!(
            client,
            "GET /v1/queue HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {READ_TOKEN}\r\n\r\n"
        )
        .unwrap();
        let mut answer = [0; 4096];
        let n = client.read(&mut answer).unwrap();
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    };
    let connect = || {
        let client = TcpStream::connect(service.api().address).unwrap();
        client.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
        client
    };
    let mut known = connect();
    ask(&mut known);
    let mut stranger = connect();
    drop(stranger.read_to_end(&mut Vec::new()));
    ask(&mut known);
}

#[cfg(unix)]
#[test]
fn sighup_rereads_the_read_only_token() {
    const OTHER: &str = "another-token-that-looks";
    let service = start("");
    let (old, new, operator) =
        (with_token(&service, READ_TOKEN), with_token(&service, OTHER), service.api());
    let statuses = || [&old, &new, &operator].map(|api| api.get("/v1/queue").status);
    let reload = |token: &str, outcome: &str| {
        let said = || {
            let log = service.log();
            let tokens = log.iter().filter(|line| line["event.action"] == "settings-reloaded");
            tokens.filter(|line| line["event.outcome"] == outcome).count()
        };
        let before = said();
        fs::write(service.path("read-token"), token).unwrap();
        service.signal("HUP");
        eventually("the log says that it was done", || (said() > before).then_some(()));
    };
    fs::write(service.path("read-token"), OTHER).unwrap();
    assert_eq!(statuses(), [200, 401, 200], "not before it is told");
    reload(OTHER, "success");
    assert_eq!(statuses(), [401, 200, 200]);
    for unusable in ["short", "with a space in it", &operator.token] {
        reload(unusable, "failure");
        assert_eq!(statuses(), [401, 200, 200], "{unusable}");
    }
    assert!(service.read("service.log").contains("api.read_token_file"));
    assert_eq!(ask(&new, "POST", "/v1/export", &Value::Null).status, 403);
    assert_eq!(ask(&operator, "POST", "/v1/export", &Value::Null).status, 200);
    // A token can move from one role to the other in one step.
    fs::write(service.path("data/api-token"), OTHER).unwrap();
    reload(&operator.token, "success");
    assert_eq!(ask(&new, "POST", "/v1/export", &Value::Null).status, 200);
    assert_eq!(ask(&operator, "POST", "/v1/export", &Value::Null).status, 403);
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it).into_owned()).concat()
}

#[test]
fn a_read_only_token_that_is_missing_malformed_or_the_operators_is_a_fault() {
    const OPERATOR: &str = "a-token-that-does-all";
    let service = prepare("api.token_file = \"own-token\"");
    fs::write(service.path("own-token"), OPERATOR).unwrap();
    let faulty = |says: &str| {
        for command in ["check-config", "serve"] {
            let output = service.run(&[command]);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(2), "{command}: {said}");
            assert!(said.contains("api.read_token_file (config.toml)"), "{command}: {said}");
            assert!(said.contains(says), "{command}: {says}: {said}");
            assert!(!said.contains(OPERATOR), "{said}");
        }
    };
    for (content, says) in [
        ("", "16 characters"),
        ("fifteen-letters", "16 characters"),
        ("two lines of it\nare one too many\n", "16 characters"),
        (OPERATOR, "the same token as api.token_file"),
        (&format!("{OPERATOR}\r\n"), "the same token as api.token_file"),
    ] {
        fs::write(service.path("read-token"), content).unwrap();
        faulty(says);
    }
    fs::remove_file(service.path("read-token")).unwrap();
    faulty("read-token cannot be used: ");
    assert!(!service.path("read-token").exists(), "it is not created");
    assert!(!service.path("data").exists(), "nothing was started");
    fs::create_dir(service.path("read-token")).unwrap();
    faulty("not a regular file");
    fs::remove_dir(service.path("read-token")).unwrap();

    fs::write(service.path("read-token"), READ_TOKEN).unwrap();
    let output = service.run(&["check-config"]);
    assert!(output.status.success(), "{output:?}");
    let line = "api.read_token_file = \"read-token\"  # config.toml";
    assert!(text(&output).contains(line) && !text(&output).contains(READ_TOKEN), "{output:?}");
    service.configure("");
    assert!(text(&service.run(&["check-config"])).contains("# api.read_token_file is not set"));
}

#[test]
fn one_file_for_both_tokens_is_a_fault() {
    let mut service = Service::start("");
    service.terminate();
    service.configure("api.read_token_file = \"data/api-token\"");
    let faulty = || {
        for command in ["check-config", "serve"] {
            let output = service.run(&[command]);
            assert_eq!(output.status.code(), Some(2), "{command}: {output:?}");
            assert!(text(&output).contains("api.read_token_file"), "{command}: {output:?}");
        }
    };
    faulty();
    // The operator's token does not exist yet.
    fs::remove_file(service.path("data/api-token")).unwrap();
    faulty();
    assert!(!service.path("data/api-token").exists());
}

#[cfg(unix)]
#[test]
fn a_world_readable_read_only_token_is_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let service = prepare("");
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true)] {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(service.path("read-token"), permissions).unwrap();
        let said = String::from_utf8(service.run(&["check-config"]).stderr).unwrap();
        let says = said.contains("api.read_token_file (config.toml): every user can read");
        assert_eq!((says, said.is_empty()), (warned, !warned), "{mode:o}: {said}");
    }
}
