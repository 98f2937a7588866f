//! Which section applies, and the output and errors of `check-config`.

use std::fs;

use super::refused;
use crate::support::Service;

fn explain(service: &Service, url: &str) -> String {
    let output = service.run(&["check-config", "--explain", url]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn only_the_most_specific_section_applies_and_check_config_shows_it() {
    let service = Service::prepare(
        "[destinations.\"https://*.example.com\"]\nconcurrency = 3\nmax_age = \"1h\"\n\
         [destinations.\"https://print-*\"]\ntimeout = \"7s\"\n\
         [destinations.\"https://print-7.example.com:8443\"]\nconcurrency = 5\n\
         [delivery]\ntimeout = \"9s\"\n",
    );
    for (url, section, lines) in [
        (
            "https://a.example.com/x",
            "destinations.\"https://*.example.com\"",
            [
                "concurrency = 3  # destinations.\"https://*.example.com\".concurrency",
                "max_age = \"1h\"  # destinations.\"https://*.example.com\".max_age",
                "timeout = \"9s\"  # delivery.timeout",
            ],
        ),
        (
            "https://print-8.local:8443",
            "destinations.\"https://print-*\"",
            [
                "concurrency = 16  # delivery.per_destination",
                "max_age = \"3days\"  # retry.max_age",
                "timeout = \"7s\"  # destinations.\"https://print-*\".timeout",
            ],
        ),
        (
            "https://print-7.example.com:8443/",
            "destinations.\"https://print-7.example.com:8443\"",
            [
                "concurrency = 5  # destinations.\"https://print-7.example.com:8443\".concurrency",
                "max_age = \"3days\"  # retry.max_age",
                "timeout = \"9s\"  # delivery.timeout",
            ],
        ),
        (
            "http://a.example.com",
            "none of `destinations` applies",
            [
                "concurrency = 16  # delivery.per_destination",
                "# requests_per_second is not set",
                "# ca_file is not set",
            ],
        ),
    ] {
        let said = explain(&service, url);
        for line in lines.into_iter().chain([format!("# section: {section}").as_str()]) {
            assert!(said.lines().any(|it| it == line), "{url}: {line} in {said}");
        }
    }
    let said = explain(&service, "http://169.254.1.1/");
    assert!(said.contains("# never called: 169.254.1.1 is in 169.254.0.0/16"), "{said}");
    let output = service.run(&["check-config", "--explain", "nowhere"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn every_fault_of_a_section_names_its_key() {
    let service = Service::prepare("");
    fs::write(service.path("two-lines"), "a\nb\n").unwrap();
    let section = |text: &str| format!("[destinations.\"http://h\"]\n{text}\n");
    for (settings, says) in [
        (
            "concurency = 1",
            "\"http://h:80\".concurency (config.toml): unknown setting; did you mean `concurrency`?",
        ),
        (
            "concurrency = 0",
            "\"http://h:80\".concurrency (config.toml): is 0, and has to be a whole number from 1",
        ),
        (
            "requests_per_second = 0",
            ".requests_per_second (config.toml): is 0, and has to be a number from 0.001",
        ),
        ("burst = 3", ".burst (config.toml): also requires requests_per_second"),
        ("timeout = \"soon\"", ".timeout (config.toml): is \"soon\", and has to be a duration"),
        (
            "connect_timeout = \"1m\"",
            ".connect_timeout (config.toml): is longer than delivery.timeout",
        ),
        (
            "timeout = \"1s\"\nconnect_timeout = \"2s\"",
            ".connect_timeout (config.toml): is longer than timeout",
        ),
        (
            "username = \"u\"",
            ".username (config.toml): credentials are bearer_token_file, or username and",
        ),
        ("bearer_token_file = \"no\"", ".bearer_token_file (config.toml): no: "),
        ("ca_file = \"no\"", ".ca_file (config.toml): cannot read certificates in PEM from no"),
        (
            "client_cert_file = \"no\"",
            ".client_cert_file (config.toml): also requires client_key_file",
        ),
        ("max_age = \"0s\"", ".max_age (config.toml): is \"0s\", and has to be at least 1ms"),
        ("max_attempts = -1", ".max_attempts (config.toml): is -1"),
        ("headers = \"x\"", ".headers (config.toml): is a text, and has to be a section"),
        (
            "headers = { x = { path = \"f\" } }",
            ".headers (config.toml): \"x\": a header is a text, or { file = ",
        ),
        (
            "headers = { \"x y\" = \"1\" }",
            ".headers (config.toml): \"x y\" is not the name of a header",
        ),
        (
            "headers = { x = \"ä\" }",
            ".headers (config.toml): \"x\": the value has characters other than",
        ),
        ("headers = { X = \"1\", x = \"2\" }", ".headers (config.toml): \"x\" is there twice"),
        ("headers = { x = { file = \"no\" } }", ".headers (config.toml): \"x\": no: "),
    ] {
        let said = refused(&section(settings));
        assert!(said.contains(says), "{settings}: {says} in {said}");
    }
    for (settings, says) in [
        (
            "[destinations.\"https://pr*nt\"]",
            "destinations (config.toml): \"https://pr*nt\": a pattern has one `*`",
        ),
        ("[destinations.\"host\"]", "\"host\": it is not scheme, host and port such as"),
        (
            "[destinations.\"http://u:nobody-may-see-this@h\"]",
            "http://u:***@h/\": settings belong to",
        ),
        (
            "[destinations.\"http://h\"]\n[destinations.\"http://H:80\"]",
            "\"http://h:80\" has two sections",
        ),
        ("destinations = 7", "destinations (config.toml): is 7, and has to be a section"),
    ] {
        let said = refused(settings);
        assert!(said.contains(says), "{settings}: {says} in {said}");
    }
}

#[test]
fn headers_of_the_service_cannot_be_set() {
    for name in [
        "host",
        "Content-Type",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "proxy-authorization",
        "webhook-id",
        "webhook-signature",
        "callback-attempt",
        "user-agent",
        "traceparent",
        "tracestate",
    ] {
        let said =
            refused(&format!("[destinations.\"http://h\"]\nheaders = {{ \"{name}\" = \"1\" }}\n"));
        assert!(
            said.contains(&format!(".headers (config.toml): \"{name}\" cannot be set: ")),
            "{said}"
        );
    }
}

#[test]
fn credentials_and_an_authorization_header_exclude_each_other() {
    let service = Service::prepare("");
    fs::write(service.path("token"), "a-token").unwrap();
    let authorization = "[destinations.\"http://h\"]\nheaders = { authorization = \"Key 1\" }\n";
    service.configure(&format!("{authorization}bearer_token_file = \"token\"\n"));
    let output = service.run(&["check-config"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("\"authorization\" cannot be set: the section's credentials"), "{said}");
    service.configure(authorization);
    let shown = String::from_utf8(service.run(&["check-config"]).stdout).unwrap();
    let says = "destinations = { \"http://h:80\" = { headers = { authorization = \"***\" } } }";
    assert!(shown.contains(says), "{shown}");
}

#[test]
fn secrets_for_hosts_of_any_owner_are_warned_about() {
    let service = Service::prepare("");
    fs::write(service.path("secret"), "one-line").unwrap();
    let warned = |pattern: &str, settings: &str| {
        service.configure(&format!("[destinations.\"{pattern}\"]\n{settings}\n"));
        let output = service.run(&["check-config"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap().contains("matches hosts of any owner")
    };
    let bearer = "bearer_token_file = \"secret\"";
    let oauth2 = "oauth2 = { token_url = \"http://t/\", client_id = \"c\", client_secret_file = \"secret\" }";
    for settings in [bearer, oauth2, "headers = { x = { file = \"secret\" } }"] {
        for open in ["https://print-*", "https://*example.com"] {
            assert!(warned(open, settings), "{open} {settings}");
        }
        for closed in ["https://*.example.com", "https://print-1"] {
            assert!(!warned(closed, settings), "{closed} {settings}");
        }
    }
    assert!(!warned("https://print-*", "headers = { x = \"no secret\" }"));
}

#[test]
fn the_earlier_form_of_credentials_works_and_warns() {
    let service = Service::prepare("");
    fs::write(service.path("token"), "a-token").unwrap();
    let auth = "[auth.\"http://h\"]\nbearer_token_file = \"token\"\n";
    service.configure(auth);
    let output = service.run(&["check-config"]);
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("auth (config.toml): is the earlier name of `destinations`"), "{said}");
    service.configure(&format!("{auth}[destinations.\"http://h\"]\nconcurrency = 1\n"));
    let output = service.run(&["check-config"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("auth (config.toml): \"http://h:80\" has two sections"), "{said}");
    for (settings, says) in [
        ("concurrency = 1", "concurrency (config.toml): unknown setting"),
        ("", "credentials are bearer_token_file, or username and password_file"),
    ] {
        let said = refused(&format!("[auth.\"http://h\"]\n{settings}\n"));
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_section_can_be_set_by_the_environment() {
    let service = Service::prepare("");
    let value = "{\"https://*.example.com\" = {concurrency = 3, timeout = \"7s\"}}";
    let env = [("URLCALLBACK__DESTINATIONS", value)];
    let output =
        service.run_with_env(&["check-config", "--explain", "https://a.example.com"], &env);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("concurrency = 3  #") && said.contains("timeout = \"7s\"  #"), "{said}");
}
