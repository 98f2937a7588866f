//! TLS towards clients of the API.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::Value;

use super::{
    receiver::{Authority, Identity, TlsReceiver, plain},
    reload,
};
use crate::support::{DEADLINE, Service};

const API_TLS: &str =
    "[api]\nlisten = \"127.0.0.1:0\"\ntls_cert_file = \"api.pem\"\ntls_key_file = \"api.key\"";

/// A service whose API uses TLS with this identity.
fn behind_tls(identity: &Identity) -> Service {
    let mut service = Service::prepare(API_TLS);
    identity.write(&service.path("api.pem"), &service.path("api.key"));
    service.serve();
    service
}

#[test]
fn commands_verify_the_apis_certificate() {
    let authority = Authority::new();
    let service = behind_tls(&authority.identity("dpfsrv03.example"));
    assert!(service.read("stderr").contains("listening on https://127.0.0.1:"));
    let receiver = crate::support::Receiver::start();
    let url = format!("DpfControlCallbackUrl={}", receiver.url("/"));
    let args =
        ["submit", "--event", "job_sending", "--job-id", "1", "--job-id-fs", "2", "-s", &url];
    assert!(service.run(&args).status.success());
    receiver.wait_for(1);
    let status = service.run(&["status"]);
    assert!(status.status.success(), "{status:?}");
    assert!(String::from_utf8(status.stdout).unwrap().contains("on https://127.0.0.1:"));

    // A client without TLS gets no response of the API.
    let mut plain = TcpStream::connect(service.api().address).unwrap();
    plain.set_read_timeout(Some(DEADLINE)).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}

#[test]
fn a_command_does_not_send_its_token_to_another_certificate() {
    let authority = Authority::new();
    let service = behind_tls(&authority.identity("localhost"));
    let other = authority.identity("localhost");
    // The server that now listens at that address has a valid certificate, but not the service's.
    let impostor = TlsReceiver::start(plain(&other));
    let note = service.path("data/service.json");
    let mut said: Value = serde_json::from_slice(&std::fs::read(&note).unwrap()).unwrap();
    said["address"] = impostor.address.to_string().into();
    std::fs::write(&note, said.to_string()).unwrap();
    let output = service.run(&["inspect-queue"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(impostor.requests(), 0);
}

#[test]
fn sighup_rereads_the_apis_certificate() {
    let authority = Authority::new();
    let service = behind_tls(&authority.identity("localhost"));
    let before = service.api().certificate;
    let known = service.api();
    authority.identity("localhost").write(&service.path("api.pem"), &service.path("api.key"));
    reload(&service, "success");
    assert_ne!(service.api().certificate, before);
    assert_eq!(service.api().get("/v1/queue").status, 200);
    assert!(service.run(&["inspect-queue"]).status.success());
    drop(known);

    let kept = service.api().certificate;
    // A key that does not belong to the certificate.
    authority.identity("localhost").write(&service.path("other.pem"), &service.path("api.key"));
    reload(&service, "failure");
    assert_eq!(service.api().certificate, kept);
    assert_eq!(service.api().get("/v1/queue").status, 200);
}

#[test]
fn an_api_beyond_loopback_without_tls_is_warned_about() {
    let mut service = Service::prepare("[api]\nlisten = \"0.0.0.0:0\"");
    let warning = "the token crosses the network in plain text";
    let checked = service.run(&["check-config"]);
    assert!(checked.status.success());
    assert!(String::from_utf8(checked.stderr).unwrap().contains(warning));
    service.serve();
    assert!(service.read("stderr").contains(warning));
    let is_it = |line: &Value| line["event.action"] == "settings-warning";
    assert!(service.log().iter().any(is_it));

    let mut service = Service::prepare(&API_TLS.replace("127.0.0.1", "0.0.0.0"));
    let identity = Authority::new().identity("localhost");
    identity.write(&service.path("api.pem"), &service.path("api.key"));
    service.serve();
    assert!(!service.read("stderr").contains("warning"), "{}", service.read("stderr"));
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let service = Service::prepare(&format!("[api]\nlisten = \"{loopback}\""));
        let checked = service.run(&["check-config"]);
        assert!(checked.stderr.is_empty(), "{loopback}: {checked:?}");
    }
}

#[test]
fn invalid_certificates_are_errors_of_their_keys() {
    let authority = Authority::new();
    let service = Service::prepare(API_TLS);
    let said = || {
        let output = service.run(&["check-config"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(
        said().contains(
            "api.tls_cert_file (config.toml): cannot read certificates in PEM from api.pem"
        )
    );
    authority.identity("a").write(&service.path("api.pem"), &service.path("api.key"));
    authority.identity("b").write(&service.path("api.pem"), &service.path("other.key"));
    assert!(said().contains("api.pem and api.key do not work together"), "{}", said());
    std::fs::write(service.path("api.key"), "geheim").unwrap();
    assert!(
        said().contains(
            "api.tls_key_file (config.toml): cannot read a private key in PEM from api.key"
        )
    );
    assert!(!said().contains("geheim"));
    service.configure("api.tls_cert_file = \"api.pem\"");
    assert!(said().contains("also requires api.tls_key_file"));
}
