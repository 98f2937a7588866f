//! Receivers behind TLS, each with a certificate of its own.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};

use crate::support::{Service, event};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Serves 200 behind a certificate for `name`.
    fn receiver(&self, name: &str, expired: bool) -> SocketAddr {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        serve(vec![certificate.der().clone()], &key)
    }
}

fn serve(chain: Vec<rustls::pki_types::CertificateDer<'static>>, key: &KeyPair) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the tests' process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = StreamOwned::new(connection, stream);
            let mut request = [0; 4096];
            if tls.read(&mut request).is_ok_and(|n| n > 0) {
                drop(tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
            }
        }
    });
    address
}

#[test]
fn a_wrong_host_name_an_expired_and_a_self_signed_certificate_each_give_their_own_error() {
    let authority = Authority::new();
    let service = Service::prepare("");
    std::fs::write(service.path("ca.pem"), authority.0.pem()).unwrap();
    service.configure(
        "tls.ca_file = \"ca.pem\"\nretry.initial_interval = \"1h\"\nretry.max_interval = \"1h\"",
    );
    let mut service = service;
    service.serve();
    let api = service.api();
    let put = |job: &str, host: &str, address: SocketAddr| {
        api.accept(&event("job_sending", job, &format!("https://{host}:{}/", address.port())))
    };
    let good = put("1", "127.0.0.1", authority.receiver("127.0.0.1", false));
    api.wait_for_state(&good, "delivered");

    let own = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "nobody's authority");
    let self_signed = params.self_signed(&own).unwrap();
    for (job, address, said) in [
        ("2", authority.receiver("other.example", false), "not valid for name"),
        ("3", authority.receiver("127.0.0.1", true), "expired"),
        ("4", serve(vec![self_signed.der().clone()], &own), "self-signed"),
    ] {
        let id = put(job, "127.0.0.1", address);
        let callback = crate::support::eventually("the attempt", || {
            Some(api.callback(&id)).filter(|it| it["attemptCount"] == 1)
        });
        assert_eq!(callback["lastError"]["kind"], "tls", "{callback}");
        assert!(callback["lastError"]["message"].as_str().unwrap().contains(said), "{callback}");
    }
}
