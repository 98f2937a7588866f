//! Credentials, headers and certificates.

use std::fs;

use super::section;
use crate::{
    support::{Answer, PASSWORD, Receiver, Service, event},
    tls::receiver::{Authority, TlsReceiver, plain},
};

#[test]
fn a_section_adds_credentials_and_headers_to_its_destinations_only() {
    let [bearer, basic, echo, other] =
        [200, 200, 200, 200].map(|status| Receiver::answering(vec![], Answer::Echo(status)));
    let mut service = Service::prepare("");
    fs::write(service.path("token"), "a-token\n").unwrap();
    fs::write(service.path("password"), "pass").unwrap();
    fs::write(service.path("key"), PASSWORD).unwrap();
    service.configure(&format!(
        "{}{}{}",
        section(
            &bearer,
            "bearer_token_file = \"token\"\nheaders = { X-Tenant = \"dpf\", x-number = 7 }"
        ),
        section(&basic, "username = \"user\"\npassword_file = \"password\""),
        section(&echo, "headers = { x-api-key = { file = \"key\" }, x-tenant = \"dpf\" }"),
    ));
    service.serve();
    let api = service.api();
    let put = |receiver: &Receiver| {
        let id = api.accept(&event("job_sending", &receiver.url(""), &receiver.url("/")));
        let callback = api.wait_for_state(&id, "delivered");
        (receiver.puts().remove(0), callback["attempts"][0]["responseExcerpt"].to_string())
    };
    let (put_bearer, _) = put(&bearer);
    let named = ["authorization", "x-tenant", "x-number"].map(|name| put_bearer.header(name));
    assert_eq!(named, ["Bearer a-token", "dpf", "7"]);
    assert_eq!(put_bearer.header("content-type"), "application/json");
    let (put_basic, _) = put(&basic);
    assert_eq!(put_basic.header("authorization"), "Basic dXNlcjpwYXNz");
    let (put_echo, shown) = put(&echo);
    assert_eq!(put_echo.header("x-api-key"), PASSWORD);
    assert!(
        shown.contains("x-tenant") && shown.contains("***") && !shown.contains(PASSWORD),
        "{shown}"
    );
    let (put_other, _) = put(&other);
    assert_eq!(
        ["authorization", "x-tenant", "x-api-key"].map(|name| put_other.header(name)),
        [""; 3]
    );
    // A user in the URL is the job's own.
    let url = bearer.url("/").replace("http://", "http://job:secret@");
    api.wait_for_state(&api.accept(&event("job_sending", "url", &url)), "delivered");
    assert_eq!(bearer.puts()[1].header("authorization"), "Basic am9iOnNlY3JldA==");
}

#[test]
fn a_section_has_its_own_authority_and_client_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut service = Service::prepare("");
    authority.write(&service.path("ca.pem"));
    let client = authority.identity("client");
    client.write(&service.path("client.pem"), &service.path("client.key"));
    let wants =
        TlsReceiver::start(authority.identity("127.0.0.1").wanting_certificates_of(&authority));
    let trusted = TlsReceiver::start(plain(&authority.identity("127.0.0.1")));
    let unknown = TlsReceiver::start(plain(&authority.identity("127.0.0.1")));
    other.write(&service.path("other.pem"));
    service.configure(&format!(
        "[retry]\nmax_attempts = 1\n[tls]\nca_file = \"other.pem\"\n\
         [destinations.\"https://{}\"]\nca_file = \"ca.pem\"\nclient_cert_file = \"client.pem\"\nclient_key_file = \"client.key\"\n\
         [destinations.\"https://{}\"]\nca_file = \"ca.pem\"\n",
        wants.address, trusted.address,
    ));
    service.serve();
    let api = service.api();
    for (receiver, state, has_certificate) in
        [(&wants, "delivered", true), (&trusted, "delivered", false), (&unknown, "failed", false)]
    {
        let id = api.accept(&event("job_sending", &receiver.url(), &receiver.url()));
        api.wait_for_state(&id, state);
        let seen = receiver.seen();
        assert_eq!(seen.len(), usize::from(state == "delivered"));
        assert!(seen.iter().all(|it| it.client.is_some() == has_certificate));
    }
    assert_eq!(wants.seen()[0].client.as_deref(), Some(&*client.der()));
}
