//! Access tokens for receivers.

use std::{fs, net::TcpListener};

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::refused;
use crate::support::{Answer, PASSWORD, Receiver, Service, event, eventually, unused_address};

fn token(text: &str, expires_in: u64) -> Answer {
    let granted = json!({"access_token": text, "token_type": "Bearer", "expires_in": expires_in});
    Answer::Body(200, granted.to_string().into_bytes())
}

/// A section that requires tokens of this server.
fn section(receiver: &Receiver, token_url: &str) -> String {
    format!(
        "[destinations.\"{}\"]\noauth2 = {{ token_url = \"{token_url}\", client_id = \"dpf\", \
         client_secret_file = \"secret\", scope = \"callbacks write\" }}\n",
        receiver.url("")
    )
}

fn start(settings: &str) -> Service {
    let mut service = Service::prepare("");
    fs::write(service.path("secret"), PASSWORD).unwrap();
    service.configure(settings);
    service.serve();
    service
}

fn logged(service: &Service) -> Vec<Value> {
    service.log().into_iter().filter(|line| line["event.action"] == "token-failed").collect()
}

#[test]
fn one_token_is_shared_and_renewed_when_it_expires() {
    let server = Receiver::answering(vec![token("first", 2)], token("second", 3600));
    let receiver = Receiver::start();
    let service = start(&section(&receiver, &server.url("/token")));
    let api = service.api();
    for job in 0..50 {
        api.accept(&event("job_sending", &format!("{job}"), &receiver.url("/")));
    }
    assert!(receiver.wait_for(50).iter().all(|put| put.header("authorization") == "Bearer first"));
    assert_eq!(server.count(), 1);
    let asked = server.puts().remove(0);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/token"));
    assert_eq!(asked.header("content-type"), "application/x-www-form-urlencoded");
    let basic = format!("Basic {}", BASE64.encode(format!("dpf:{PASSWORD}").as_bytes()));
    assert_eq!(asked.header("authorization"), basic);
    assert_eq!(asked.body, "grant_type=client_credentials&scope=callbacks+write");
    let mut jobs = 50..;
    eventually("the token runs out", || {
        let id =
            api.accept(&event("job_sending", &format!("{}", jobs.next()?), &receiver.url("/")));
        api.wait_for_state(&id, "delivered");
        (receiver.puts().pop()?.header("authorization") == "Bearer second").then_some(())
    });
    assert_eq!(server.count(), 2);
    let metrics = String::from_utf8(api.get("/metrics").body).unwrap();
    assert!(
        metrics.contains("urlcallback_token_requests_total{result=\"granted\"} 2"),
        "{metrics}"
    );
}

#[test]
fn a_refused_token_is_renewed_once_within_the_attempt() {
    let server = Receiver::answering(
        vec![token("first", 3600), token("second", 3600)],
        token("third", 3600),
    );
    let receiver = Receiver::answering(vec![Answer::Status(401)], Answer::Status(200));
    let strict = Receiver::answering(vec![], Answer::Status(401));
    let service = start(&format!(
        "retry.max_attempts = 1\n{}{}",
        section(&receiver, &server.url("/")),
        section(&strict, &server.url("/")),
    ));
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    let callback = api.wait_for_state(&id, "delivered");
    assert_eq!(callback["attemptCount"], 1, "{callback}");
    let sent: Vec<_> =
        receiver.puts().iter().map(|put| put.header("authorization").to_owned()).collect();
    assert_eq!(
        (sent, server.count()),
        (vec!["Bearer first".to_owned(), "Bearer second".to_owned()], 2)
    );
    let id = api.accept(&event("job_sending", "2", &strict.url("/")));
    let callback = api.wait_for_state(&id, "failed");
    assert_eq!(
        (&callback["attempts"][0]["status"], strict.count(), server.count()),
        (&401.into(), 2, 4)
    );
}

#[test]
fn an_unreachable_token_server_does_not_count_against_the_receiver() {
    let address = unused_address();
    let (receiver, other) = (Receiver::start(), Receiver::start());
    let service = start(&format!(
        "breaker.failures = 1\nretry.max_attempts = 1\n{}",
        section(&receiver, &format!("http://{address}/token"))
    ));
    let api = service.api();
    let ids: Vec<_> = (0..5)
        .map(|job| api.accept(&event("job_sending", &format!("{job}"), &receiver.url("/"))))
        .collect();
    let lines =
        eventually("it is asked twice", || Some(logged(&service)).filter(|it| it.len() > 1));
    let message = lines[0]["error.message"].as_str().unwrap();
    let says = format!("no access token from http://{address}: ");
    assert!(message.starts_with(&says) && message.contains("refused"), "{message}");
    let id = api.accept(&event("job_sending", "other", &other.url("/")));
    api.wait_for_state(&id, "delivered");
    let destinations = api.get("/v1/destinations").json();
    let waits = &destinations["destinations"][0];
    assert_eq!((&waits["state"], &waits["pending"]), (&"ok".into(), &5.into()), "{waits}");
    assert_eq!(api.callback(&ids[0])["attemptCount"], 0);
    let basic = format!("Basic {}", BASE64.encode(format!("anna:{}", api.token).as_bytes()));
    let page = api.request("GET", "/ui/destinations", Some(&basic), "", "");
    assert!(String::from_utf8(page.body).unwrap().contains(&says), "the page says why it waits");
    let page = api.get("/metrics");
    assert!(
        String::from_utf8(page.body).unwrap().contains("token_requests_total{result=\"failed\"}")
    );
    let _server =
        Receiver::listening(TcpListener::bind(address).unwrap(), vec![], token("t", 3600));
    for id in &ids {
        assert_eq!(api.wait_for_state(id, "delivered")["attemptCount"], 1);
    }
    assert_eq!(receiver.count(), 5);
}

#[test]
fn a_token_request_has_its_own_deadline_and_obeys_the_egress_rules() {
    let hangs = Receiver::answering(vec![], Answer::Wait);
    let [slow, denied] = [Receiver::start(), Receiver::start()];
    let service = start(&format!(
        "egress.deny = [\"127.0.0.9\"]\n{}{}[destinations.\"{}\"]\ntimeout = \"200ms\"\n",
        section(&slow, &hangs.url("/")),
        section(&denied, "http://127.0.0.9:1/"),
        hangs.url(""),
    ));
    let api = service.api();
    for receiver in [&slow, &denied] {
        api.accept(&event("job_sending", &receiver.url(""), &receiver.url("/")));
    }
    for says in
        ["no response within 200ms", "127.0.0.9 is in 127.0.0.9/32, which egress.deny denies"]
    {
        let has = |line: &Value| line["error.message"].as_str().unwrap().contains(says);
        eventually(says, || logged(&service).iter().any(has).then_some(()));
    }
    assert_eq!((slow.count(), denied.count()), (0, 0));
}

#[test]
fn the_client_is_sent_in_the_body_if_the_server_requires_it() {
    // It echoes the secret, plain and encoded.
    let basic = data_encoding::BASE64.encode(format!("dpf:{PASSWORD}").as_bytes());
    let said = format!("{PASSWORD} or {basic}");
    let body = json!({"error": "invalid_client", "error_description": said}).to_string();
    let no = Answer::Body(401, body.into_bytes());
    let server = Receiver::answering(vec![no.clone(), token("t", 3600)], no.clone());
    let closed = Receiver::answering(vec![], no);
    let [receiver, never] = [Receiver::start(), Receiver::start()];
    let service = start(&format!(
        "{}{}",
        section(&receiver, &server.url("/")),
        section(&never, &closed.url("/"))
    ));
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    api.wait_for_state(&id, "delivered");
    let asked = server.puts().remove(1);
    assert_eq!(asked.header("authorization"), "");
    assert!(
        asked.body.ends_with(&format!("&client_id=dpf&client_secret={PASSWORD}")),
        "{}",
        asked.body
    );
    api.accept(&event("job_sending", "2", &never.url("/")));
    let line = eventually("it is logged", || logged(&service).pop());
    let says = "it responded with 401 Unauthorized: invalid_client: *** or ***";
    assert!(line["error.message"].as_str().unwrap().ends_with(says), "{line}");
}

#[test]
fn every_fault_of_oauth2_names_its_key() {
    for (settings, says) in [
        ("oauth2 = 7", ".oauth2 (config.toml): has to be a section with token_url"),
        (
            "oauth2 = { client_id = \"c\", client_secret_file = \"no\" }",
            ".oauth2.token_url: is required",
        ),
        (
            "oauth2 = { token_url = \"ftp://h\" }",
            ".oauth2.token_url (config.toml): is \"ftp://h\", and has to be a URL",
        ),
        (
            "oauth2 = { token_url = \"http://u:p@h\" }",
            ".oauth2.token_url (config.toml): has a user",
        ),
        (
            "oauth2 = { client_secret_file = \"no\" }",
            ".oauth2.client_secret_file (config.toml): no: ",
        ),
        (
            "oauth2 = { scopes = \"a\" }",
            ".oauth2.scopes (config.toml): unknown setting; did you mean `scope`?",
        ),
    ] {
        let said = refused(&format!("[destinations.\"http://h\"]\n{settings}\n"));
        assert!(said.contains(says), "{settings}: {says} in {said}");
    }
    let service = Service::prepare("");
    fs::write(service.path("secret"), "s").unwrap();
    service.configure(
        "[destinations.\"http://h\"]\nbearer_token_file = \"secret\"\n\
         oauth2 = { token_url = \"http://t\", client_id = \"c\", client_secret_file = \"secret\" }\n",
    );
    let said = String::from_utf8(service.run(&["check-config"]).stderr).unwrap();
    assert!(said.contains(".oauth2 (config.toml): excludes other credentials"), "{said}");
}
