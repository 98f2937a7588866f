//! Secrets never appear in the API, tables, the log, metrics or errors.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use data_encoding::BASE64;

use crate::support::{Answer, Api, PASSWORD, Receiver, Service, event, eventually};

const TOKEN: &str = "a-token-for-a-receiver";
const BASIC: &str = "a-password-for-a-receiver";
const SIGNING: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const API: &str = "a-token-for-the-own-api";
const READ: &str = "a-token-that-only-looks";

/// All output of a run, with its source.
#[derive(Default)]
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn note(&mut self, who: impl Into<String>, what: impl Into<Vec<u8>>) {
        self.0.push((who.into(), what.into()));
    }

    fn output(&mut self, args: &[&str], output: &Output) {
        self.note(format!("{args:?}"), output.stdout.clone());
        self.note(format!("standard error of {args:?}"), output.stderr.clone());
    }

    fn by(&self, secret: &str) -> Vec<&str> {
        let has = |text: &[u8]| text.windows(secret.len()).any(|it| it == secret.as_bytes());
        self.0.iter().filter(|(_, text)| has(text)).map(|(who, _)| who.as_str()).collect()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

const USER: &str = "user:nobody-may-see-this";

fn url(host: &str) -> String {
    format!("http://{USER}@{host}/x")
}

/// Submits events that are accepted, refused, and failed, each with the password.
fn hand_in(api: &Api, said: &mut Said, receivers: [&Receiver; 3]) {
    let [bearer, basic, in_url] = receivers;
    let mut wrong_type = event("job_sending", "w", "x");
    wrong_type["parameters"] = url("h").into();
    let mut twice = event("job_sending", "t", &url("a"));
    twice["parameters"]["DPF_CONTROL_CALLBACK_URL"] = url("b").into();
    for event in [
        event("job_sending", "1", &bearer.url("/")),
        event("job_sending", "2", &basic.url("/")),
        event("job_sending", "3", &url(&in_url.address.to_string())),
        event("job_sending", "4", &url("127.0.0.9")),
        event("job_sending", "5", &url("127.0.0.1:1")),
        event("job_sending", "6", &url("a b")),
        event("job_sending", "7", &format!("ftp://{USER}@h/")),
        event("job_sending", "8", &format!("{USER}@h")),
        event("job_sending", "9", &url("nowhere.invalid")),
        event("job_sending", "10", &format!("http:/{USER}@127.0.0.1:1/")),
        event("job_sending", "11", &format!("http:///{USER}@127.0.0.9/")),
        event("job_sending", "12", &format!("http:\\\\{USER}@127.0.0.1:1/x://e@f")),
        event("job_sending", "13", &format!("http:{USER}@127.0.0.1:1/")),
        event("job_sending", "14", &format!("http://user:{PASSWORD}%40127.0.0.1/")),
        wrong_type,
        twice,
    ] {
        let answer = api.post("/v1/events", &event);
        said.note(format!("the answer to {event}").replace(PASSWORD, "…"), answer.body);
    }
    bearer.wait_for(2);
    basic.wait_for(1);
    in_url.wait_for(2);
    eventually("both are recorded", || (api.queue()["delivered"] == 2).then_some(()));
    eventually("all were tried", || {
        let all = api.get("/v1/callbacks?state=pending").json();
        let all = all["callbacks"].as_array().unwrap().clone();
        all.iter().all(|it| it["attemptCount"] != 0).then_some(())
    });
}

/// API responses with and without the token.
fn ask(api: &Api, said: &mut Said, ids: &[String]) {
    for id in ids {
        said.note("one callback", api.get(&format!("/v1/callbacks/{id}")).body);
    }
    for path in ["/v1/callbacks", "/v1/queue", "/metrics", "/healthz", "/readyz", "/nothing"] {
        said.note(path, api.get(path).body);
        let stranger = api.request("GET", path, None, "", Vec::new());
        said.note(format!("{path} without a token"), stranger.body);
    }
}

/// Output of every command that reads or changes the queue.
fn command(service: &Service, said: &mut Said, ids: &[String]) {
    let not_a_parameter = url("h");
    let mut commands = vec![
        vec!["inspect-queue", "--output", "table"],
        vec!["inspect-queue", "--output", "json"],
        vec!["inspect-queue", "--output", "ndjson"],
        vec!["status"],
        vec!["status", "--output", "json"],
        vec!["check-config"],
        vec!["replay-failed", "--all", "--dry-run"],
        vec!["replay-failed", "--all"],
        vec!["submit", "--event", "job_sending", "--job-id", "1", "-s", &not_a_parameter],
    ];
    for id in ids {
        commands.push(vec!["inspect-queue", "--id", id]);
        commands.push(vec!["inspect-queue", "--id", id, "--output", "json"]);
    }
    for args in &commands {
        said.output(args, &service.run(args));
    }
}

#[test]
fn secrets_are_only_in_the_store_and_their_files() {
    let bearer = Receiver::answering(vec![Answer::Echo(503)], Answer::Echo(200));
    let basic = Receiver::answering(vec![], Answer::Echo(422));
    let in_url = Receiver::answering(vec![Answer::Echo(500)], Answer::Echo(200));
    let mut service = Service::prepare("");
    for (name, secret) in
        [("token", TOKEN), ("password", BASIC), ("own-token", API), ("read-token", READ)]
    {
        fs::write(service.path(name), secret).unwrap();
    }
    service.configure(&format!(
        "[api]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"own-token\"\nread_token_file = \"read-token\"\n\
         [egress]\ndeny = [\"127.0.0.9\"]\n\
         [signing]\nsecrets = [\"whsec_{SIGNING}\"]\n\
         [destinations.\"{}\"]\nbearer_token_file = \"token\"\n\
         [auth.\"{}\"]\nusername = \"u\"\npassword_file = \"password\"\n",
        bearer.url(""),
        basic.url(""),
    ));
    service.serve_with(&[("LOG_LEVEL", "trace")]);
    let api = Api { token: API.into(), ..service.api() };
    let mut said = Said::default();
    hand_in(&api, &mut said, [&bearer, &basic, &in_url]);
    let all = api.get("/v1/callbacks").json();
    let all = all["callbacks"].as_array().unwrap();
    let ids: Vec<_> = all.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 14);
    ask(&api, &mut said, &ids);
    ask(&Api { token: READ.into(), ..api.clone() }, &mut said, &ids);
    command(&service, &mut said, &ids);
    assert_eq!(service.terminate(), Some(0));
    command(&service, &mut said, &ids);
    for name in ["stderr", "service.log"] {
        said.note(name, service.read(name));
    }
    assert!(service.read("service.log").contains("callback-retry"));

    let mut on_disk = Said::default();
    for file in files(service.folder()) {
        let name =
            file.strip_prefix(service.folder()).unwrap().display().to_string().replace('\\', "/");
        on_disk.note(name, fs::read(&file).unwrap());
    }
    let header = |user: &str| BASE64.encode(user.as_bytes());
    for (secret, own) in [
        (PASSWORD.to_owned(), &["data/outbox/db"][..]),
        (header(USER), &[]),
        (TOKEN.to_owned(), &["token"]),
        (BASIC.to_owned(), &["password"]),
        (header(&format!("u:{BASIC}")), &[]),
        (SIGNING.to_owned(), &["config.toml"]),
        (API.to_owned(), &["own-token"]),
        (READ.to_owned(), &["read-token"]),
    ] {
        assert_eq!(said.by(&secret), Vec::<&str>::new(), "{secret} was said");
        assert_eq!(on_disk.by(&secret), own, "where {secret} lies");
    }
}

#[test]
fn echoed_credentials_are_not_stored() {
    let receiver = Receiver::answering(vec![], Answer::Echo(200));
    // The excerpt ends within the header, wherever that is.
    let mut service = Service::prepare("");
    for bytes in [1024, 300, 100, 60] {
        service.configure(&format!("delivery.excerpt_bytes = {bytes}"));
        service.serve();
        let api = service.api();
        for (job, user) in [("1", format!("user:{PASSWORD}")), ("2", format!("u:{PASSWORD}%21%2F"))]
        {
            let url = format!("http://{user}@{}/", receiver.address);
            let id = api.accept(&event("job_sending", job, &url));
            let callback = api.wait_for_state(&id, "delivered");
            let excerpt = callback["attempts"][0]["responseExcerpt"].as_str().unwrap();
            assert!(!excerpt.is_empty() && excerpt.len() <= bytes);
            let put = receiver.puts().pop().unwrap();
            let header = put.header("authorization").strip_prefix("Basic ").unwrap();
            for end in 8..header.len() {
                assert!(!excerpt.contains(&header[..end]), "{excerpt} has {}", &header[..end]);
            }
        }
        service.terminate();
    }
}

#[test]
fn a_secret_echoed_repeatedly_is_hidden_completely() {
    for size in [5, 16, 43] {
        let token = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"[..size].to_owned();
        let body = Answer::Body(200, token.repeat(200).into_bytes());
        let receiver = Receiver::answering(vec![], body);
        let mut service = Service::prepare("");
        fs::write(service.path("token"), &token).unwrap();
        let auth =
            format!("[destinations.\"{}\"]\nbearer_token_file = \"token\"", receiver.url(""));
        service.configure(&format!("delivery.excerpt_bytes = 100\n{auth}"));
        service.serve();
        let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
        let callback = service.api().wait_for_state(&id, "delivered");
        let excerpt = callback["attempts"][0]["responseExcerpt"].as_str().unwrap();
        assert!(excerpt.bytes().all(|byte| byte == b'*'), "{size}: {excerpt}");
    }
}

#[test]
fn a_token_that_is_no_valid_header_is_an_error() {
    let service = Service::prepare("");
    fs::write(service.path("token"), "abc\u{1}def").unwrap();
    service.configure("[destinations.\"http://h\"]\nbearer_token_file = \"token\"");
    let output = service.run(&["check-config"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("without control characters"));
}

#[test]
fn an_error_in_the_settings_does_not_quote_its_line() {
    let service = Service::prepare("");
    for settings in [
        format!("[signing]\nsecrets = [\"whsec_{SIGNING}]\n"),
        format!("signing.secrets = [whsec_{SIGNING}]\n"),
        format!("egress.proxy = http://user:{SIGNING}@proxy/\n"),
        format!("egress.proxy = \"user:{SIGNING}@proxy\"\n"),
        format!("egress.proxy = \"http:/user:{SIGNING}@proxy:port\"\n"),
        format!("[auth.\"user:{SIGNING}@proxy\"]\nbearer_token_file = \"x\"\n"),
    ] {
        service.configure(&settings);
        let output = service.run(&["check-config"]);
        assert_eq!(output.status.code(), Some(2), "{settings}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("config.toml"), "{said}");
        assert!(!said.contains(SIGNING), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn a_world_readable_secret_is_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut service = Service::prepare("");
    fs::write(service.path("token"), TOKEN).unwrap();
    service.configure("[destinations.\"http://h\"]\nbearer_token_file = \"token\"");
    let said = |service: &Service, mode| {
        fs::set_permissions(service.path("token"), fs::Permissions::from_mode(mode)).unwrap();
        String::from_utf8(service.run(&["check-config"]).stderr).unwrap()
    };
    assert_eq!(said(&service, 0o640), "");
    let warned = said(&service, 0o644);
    assert!(
        warned.contains("warning: destinations.\"http://h:80\".bearer_token_file")
            && warned.contains("every user can read token")
    );
    service.serve();
    let line = eventually("the log says so", || {
        service.log().into_iter().find(|line| line["event.action"] == "settings-warning")
    });
    assert!(line["error.message"].as_str().unwrap().contains("every user can read token"));
}

#[test]
fn debug_output_of_the_settings_has_no_secrets() {
    let service = Service::prepare("");
    fs::write(service.path("password"), BASIC).unwrap();
    service.configure(&format!(
        "egress.proxy = \"http://user:{PASSWORD}@proxy/\"\nsigning.secrets = [\"whsec_{SIGNING}\"]\n\
         [auth.\"http://h\"]\nusername = \"u\"\npassword_file = {:?}",
        service.path("password")
    ));
    let config = seal_dpf_urlcallback::config::Config::load(Some(&service.path("config.toml")));
    let shown = format!("{:?}", config.unwrap());
    assert!(shown.contains("http://user:***@proxy/"), "{shown}");
    for secret in [PASSWORD, BASIC, SIGNING] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
