//! TLS: towards receivers (the settings `tls.*`) and towards clients of the API.

mod api;
mod chain;
pub(crate) mod receiver;

use std::io::{Read as _, Write as _};

use serde_json::Value;

use self::receiver::{Authority, TlsReceiver, plain, self_signed};
use crate::support::{RawReceiver, Service, event, eventually, unused_address};

const ONCE: &str = "retry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"\n";

/// A service that trusts an authority.
fn trusting(authority: &Authority, settings: &str) -> Service {
    let mut service = Service::prepare("");
    authority.write(&service.path("ca.pem"));
    service.configure(&format!("tls.ca_file = \"ca.pem\"\n{ONCE}{settings}"));
    service.serve();
    service
}

fn attempted(service: &Service, job: &str, url: &str) -> Value {
    let api = service.api();
    let id = api.accept(&event("job_sending", job, url));
    eventually("the attempt has ended", || {
        Some(api.callback(&id)).filter(|it| it["attemptCount"] != 0)
    })
}

#[test]
fn each_kind_of_invalid_certificate_has_its_own_error() {
    let authority = Authority::new();
    let service = trusting(&authority, "");
    let good = TlsReceiver::start(plain(&authority.identity("127.0.0.1")));
    assert_eq!(attempted(&service, "1", &good.url())["state"], "delivered");

    let wrong = TlsReceiver::start(plain(&authority.identity("other.example")));
    let expired = authority.identity_between("127.0.0.1", 2020, 2021);
    let early = authority.identity_between("127.0.0.1", 4000, 4001);
    let unknown = Authority::new().identity("127.0.0.1");
    for (job, receiver, said) in [
        ("2", wrong, "not valid for name"),
        ("3", TlsReceiver::start(plain(&expired)), "expired"),
        ("4", TlsReceiver::start(plain(&early)), "not valid yet"),
        ("5", TlsReceiver::start(plain(&self_signed("127.0.0.1", false))), "is self-signed"),
        ("6", TlsReceiver::start(plain(&self_signed("127.0.0.1", true))), "is self-signed"),
        ("7", TlsReceiver::start(plain(&unknown)), "signed by an authority that is not known"),
    ] {
        let callback = attempted(&service, job, &receiver.url());
        assert_eq!(callback["lastError"]["kind"], "tls", "{callback}");
        assert_eq!(callback["state"], "pending", "a certificate can be renewed: {callback}");
        assert!(callback["lastError"]["message"].as_str().unwrap().contains(said), "{callback}");
        assert_eq!(receiver.requests(), 0);
    }
}

#[test]
fn a_self_signed_certificate_in_the_ca_file_is_trusted_for_its_name() {
    for authority in [false, true] {
        let good = self_signed("127.0.0.1", authority);
        let other_name = self_signed("other.example", authority);
        let mut service = Service::prepare("");
        good.write(&service.path("one.pem"), &service.path("one.key"));
        other_name.write(&service.path("other.pem"), &service.path("other.key"));
        let both = service.read("one.pem") + &service.read("other.pem");
        std::fs::write(service.path("ca.pem"), both).unwrap();
        service.configure(&format!("tls.ca_file = \"ca.pem\"\n{ONCE}"));
        service.serve();
        let good = TlsReceiver::start(plain(&good));
        assert_eq!(attempted(&service, "1", &good.url())["state"], "delivered", "{authority}");
        let other_name = TlsReceiver::start(plain(&other_name));
        let callback = attempted(&service, "2", &other_name.url());
        let message = callback["lastError"]["message"].as_str().unwrap();
        assert!(message.contains("not valid for name"), "{authority}: {message}");
        // An unknown authority with the same name.
        let unknown = TlsReceiver::start(plain(&self_signed("127.0.0.1", authority)));
        let callback = attempted(&service, "3", &unknown.url());
        assert_eq!(callback["lastError"]["kind"], "tls", "{authority}: {callback}");
    }
}

#[test]
fn http_2_is_used_if_offered() {
    let authority = Authority::new();
    let service = trusting(&authority, "");
    for (job, protocols, version) in [
        ("1", &["h2", "http/1.1"][..], "HTTP/2.0"),
        ("2", &["http/1.1"], "HTTP/1.1"),
        ("3", &[], "HTTP/1.1"),
    ] {
        let mut config = plain(&authority.identity("127.0.0.1"));
        config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        let receiver = TlsReceiver::start(config);
        assert_eq!(attempted(&service, job, &receiver.url())["state"], "delivered");
        assert_eq!(receiver.seen()[0].version, version);
    }
}

#[test]
fn a_silent_connection_is_not_used_for_ever() {
    let authority = Authority::new();
    let service =
        trusting(&authority, "delivery.timeout = \"1s\"\ndelivery.connect_timeout = \"1s\"");
    let mut config = plain(&authority.identity("127.0.0.1"));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let receiver = TlsReceiver::silent_after(config, 1);
    assert_eq!(attempted(&service, "1", &receiver.url())["state"], "delivered");
    let lost = attempted(&service, "2", &receiver.url());
    assert_eq!(lost["lastError"]["kind"], "timeout", "{lost}");
    assert_eq!(attempted(&service, "3", &receiver.url())["state"], "delivered");
}

#[test]
fn errors_are_the_same_without_system_authorities() {
    let authority = Authority::new();
    let mut service = Service::prepare(ONCE);
    std::fs::write(service.path("none.pem"), "").unwrap();
    let none = service.path("none.pem");
    service
        .serve_with(&[("SSL_CERT_FILE", none.to_str().unwrap()), ("SSL_CERT_DIR", "/nonexistent")]);
    for (job, identity, said) in [
        ("1", authority.identity("127.0.0.1"), "signed by an authority that is not known"),
        ("2", self_signed("127.0.0.1", true), "is self-signed"),
    ] {
        let receiver = TlsReceiver::start(plain(&identity));
        let callback = attempted(&service, job, &receiver.url());
        assert!(callback["lastError"]["message"].as_str().unwrap().contains(said), "{callback}");
    }
}

#[test]
fn tls_below_1_2_is_refused() {
    // A server hello for TLS 1.1 (RFC 4346, 7.4.1.3), whatever the client has offered.
    let mut hello = vec![2, 0, 0, 38, 3, 2];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0xc0, 0x13, 0]);
    let mut record = vec![22, 3, 2, 0, u8::try_from(hello.len()).unwrap()];
    record.extend_from_slice(&hello);
    let receiver = RawReceiver::start(move |mut stream| {
        let mut client_hello = [0; 4096];
        if stream.read(&mut client_hello).is_ok_and(|n| n > 0) {
            drop(stream.write_all(&record));
            drop(stream.read(&mut client_hello));
        }
    });
    let service = Service::start(ONCE);
    let url = format!("https://{}/", receiver.address);
    let callback = attempted(&service, "1", &url);
    assert_eq!(callback["lastError"]["kind"], "tls", "{callback}");
}

#[test]
fn a_receiver_without_tls_is_distinguished() {
    let service = Service::start(ONCE);
    let receiver = RawReceiver::start(|mut stream| {
        drop(stream.read(&mut [0; 4096]));
        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    });
    let url = format!("https://{}/", receiver.address);
    let callback = attempted(&service, "1", &url);
    assert_eq!(callback["lastError"]["kind"], "tls", "{callback}");
}

#[test]
fn a_client_certificate_is_sent_on_request() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let receiver =
        TlsReceiver::start(servers.identity("127.0.0.1").wanting_certificates_of(&clients));
    let service = trusting(&servers, "");
    let callback = attempted(&service, "1", &receiver.url());
    // With TLS 1.3 the server may reject the certificate after the client considers the handshake
    // complete, and the rejection may arrive with the end of the connection or after it.
    let message = callback["lastError"]["message"].as_str().unwrap();
    assert!(
        message.contains("CertificateRequired") || message.contains("closed the connection"),
        "{callback}"
    );
    assert_eq!(receiver.requests(), 0);

    let mut service = service;
    service.terminate();
    let identity = clients.identity("urlcallback");
    identity.write(&service.path("client.pem"), &service.path("client.key"));
    service.configure(&format!(
        "{ONCE}[tls]\nca_file = \"ca.pem\"\nclient_cert_file = \"client.pem\"\nclient_key_file = \"client.key\""
    ));
    service.serve();
    assert_eq!(attempted(&service, "2", &receiver.url())["state"], "delivered");
    assert_eq!(receiver.seen()[0].client, Some(identity.der()));
}

#[test]
fn sighup_rereads_certificates_and_credentials() {
    let (old, new) = (Authority::new(), Authority::new());
    let receiver = TlsReceiver::start(plain(&new.identity("127.0.0.1")));
    let settings =
        format!("[auth.\"https://{}\"]\nbearer_token_file = \"token\"", receiver.address);
    let mut service = Service::prepare("");
    std::fs::write(service.path("token"), "old-token").unwrap();
    old.write(&service.path("ca.pem"));
    service.configure(&format!("tls.ca_file = \"ca.pem\"\n{ONCE}{settings}"));
    service.serve();
    assert_eq!(attempted(&service, "1", &receiver.url())["lastError"]["kind"], "tls");

    new.write(&service.path("ca.pem"));
    std::fs::write(service.path("token"), "new-token").unwrap();
    reload(&service, "success");
    assert_eq!(attempted(&service, "2", &receiver.url())["state"], "delivered");
    assert_eq!(receiver.seen()[0].authorization, "Bearer new-token");

    std::fs::write(service.path("ca.pem"), "nonsense").unwrap();
    reload(&service, "failure");
    assert_eq!(attempted(&service, "3", &receiver.url())["state"], "delivered");
    assert!(service.read("service.log").contains("ca.pem contains no certificate in PEM"));
}

/// Sends SIGHUP and waits for its line in the log.
fn reload(service: &Service, outcome: &str) {
    let said = || {
        let is_it = |line: &&Value| {
            line["event.action"] == "settings-reloaded" && line["event.outcome"] == outcome
        };
        service.log().iter().filter(is_it).count()
    };
    let before = said();
    service.signal("HUP");
    eventually("SIGHUP is obeyed", || (said() > before).then_some(()));
}

/// Creates an authority with such a key with openssl, and a certificate for 127.0.0.1 signed by it.
fn openssl_authority(folder: &std::path::Path, key: &[&str]) {
    let run = |args: &[&str]| {
        let output =
            std::process::Command::new("openssl").args(args).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    };
    let authority = [
        &["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=authority", "-keyout", "ca.key"],
        &["-out", "ca.pem", "-newkey"][..],
        key,
    ];
    run(&authority.concat());
    let request = ["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    run(&[&request[..], &["-subj", "/CN=h", "-keyout", "leaf.key", "-out", "leaf.csr"]].concat());
    std::fs::write(folder.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let sign = ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key"];
    let rest = ["-CAcreateserial", "-days", "30", "-extfile", "ext", "-out", "leaf.pem"];
    run(&[&sign[..], &rest].concat());
}

#[test]
fn an_authority_with_an_unsupported_key_is_warned_about() {
    let p521 = ["ec", "-pkeyopt", "ec_paramgen_curve:P-521"];
    let p384 = ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"];
    for (key, says) in [
        (&p521[..], Some("on an elliptic curve other than P-256 and P-384")),
        (&["rsa:1024"], Some("RSA with 1024 bits")),
        (&["rsa:2048"], None),
        (&p384, None),
    ] {
        let mut service = Service::prepare("retry.max_attempts = 1\ntls.ca_file = \"ca.pem\"");
        openssl_authority(service.folder(), key);
        let checked = service.run(&["check-config"]);
        let warned = String::from_utf8(checked.stderr).unwrap();
        assert!(checked.status.success(), "{warned}");
        assert_eq!(warned.contains("tls.ca_file"), says.is_some(), "{key:?}: {warned}");
        assert!(says.is_none_or(|says| warned.contains(says)), "{key:?}: {warned}");

        let port = unused_address().port();
        let mut server = std::process::Command::new("openssl")
            .args(["s_server", "-quiet", "-cert", "leaf.pem", "-key", "leaf.key", "-accept"])
            .arg(format!("127.0.0.1:{port}"))
            .current_dir(service.folder())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        if let Some(says) = says {
            service.serve();
            let api = service.api();
            let url = format!("https://127.0.0.1:{port}/");
            let id = api.accept(&event("job_sending", "1", &url));
            let error = api.wait_for_state(&id, "failed")["attempts"][0]["error"].clone();
            let message = error["message"].as_str().unwrap();
            assert!(error["kind"] == "tls" && message.contains(says), "{error}");
            assert!(!message.contains('['), "no bytes: {message}");
        }
        server.kill().unwrap();
        server.wait().unwrap();
    }
}
