//! Intermediate certificates between a receiver's certificate and a trusted authority.

use super::{
    ONCE, attempted, openssl_authority,
    receiver::{Authority, TlsReceiver, plain, plain_with},
    trusting,
};
use crate::support::Service;

#[test]
fn a_missing_intermediate_is_distinguished_from_an_unknown_authority() {
    let authority = Authority::new();
    let service = trusting(&authority, "");
    let intermediate = authority.intermediate();
    let identity = intermediate.identity("127.0.0.1");
    let whole = TlsReceiver::start(plain_with(&identity, &intermediate));
    assert_eq!(attempted(&service, "1", &whole.url())["state"], "delivered");

    let unknown = Authority::new().intermediate();
    let unknown = plain_with(&unknown.identity("127.0.0.1"), &unknown);
    for (job, config, missing) in [("2", plain(&identity), true), ("3", unknown, false)] {
        let receiver = TlsReceiver::start(config);
        let callback = attempted(&service, job, &receiver.url());
        let error = &callback["lastError"];
        let message = error["message"].as_str().unwrap();
        assert_eq!(error["kind"], "tls", "{callback}");
        assert!(message.contains("signed by an authority that is not known here"), "{message}");
        assert_eq!(message.contains("intermediate"), missing, "{message}");
    }
}

#[test]
fn an_invalid_signature_is_not_blamed_on_another_authority() {
    let mut service = Service::prepare("");
    let curve = ["ec", "-pkeyopt", "ec_paramgen_curve:P-521"];
    openssl_authority(service.folder(), &curve);
    let uncheckable = std::fs::read_to_string(service.path("ca.pem")).unwrap();
    let authority = Authority::named("known");
    std::fs::write(service.path("ca.pem"), uncheckable + &authority.pem()).unwrap();
    service.configure(&format!("tls.ca_file = \"ca.pem\"\n{ONCE}"));
    service.serve();
    // The name is known, the key is another.
    let impostor = Authority::named("known").identity("127.0.0.1");
    let receiver = TlsReceiver::start(plain(&impostor));
    let callback = attempted(&service, "1", &receiver.url());
    let message = callback["lastError"]["message"].as_str().unwrap();
    assert_eq!(callback["lastError"]["kind"], "tls", "{callback}");
    assert!(!message.contains("curve"), "{message}");
}
