//! Users with a JWT, in the accounts of an operator.

use async_nats::ConnectOptions;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::{SLOW, check, numbered, wait_for};
use crate::support::{Service, nats::Server};

/// A claim about `subject`, signed by `issuer` (NATS's own kind of JWT, version 2).
fn jwt(issuer: &KeyPair, subject: &str, nats: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let header = part(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = part(&json!({
        "jti": subject, "iat": 1, "iss": issuer.public_key(), "name": "test", "sub": subject, "nats": nats,
    }));
    let signed = format!("{header}.{claims}");
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// An operator with an account for everything and one for the system.
struct Operator {
    key: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Operator {
    fn new() -> Self {
        Self {
            key: KeyPair::new_operator(),
            account: KeyPair::new_account(),
            system: KeyPair::new_account(),
        }
    }

    /// Settings of a server whose account has revoked these users.
    fn settings(&self, revoked: &Value) -> String {
        let account = |key: &KeyPair, storage: i64| {
            let limits = json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                "conn": -1, "leaf": -1, "mem_storage": storage, "disk_storage": storage,
                "streams": storage, "consumer": storage,
            });
            let nats = json!({
                "type": "account", "version": 2, "limits": limits, "revocations": revoked,
                "default_permissions": {"pub": {}, "sub": {}},
            });
            jwt(&self.key, &key.public_key(), &nats)
        };
        let operator = json!({"type": "operator", "version": 2});
        format!(
            "operator: \"{}\"\nsystem_account: {1}\nresolver: MEMORY\n\
             resolver_preload: {{ {1}: \"{2}\", {3}: \"{4}\" }}\n",
            jwt(&self.key, &self.key.public_key(), &operator),
            self.system.public_key(),
            account(&self.system, 0),
            self.account.public_key(),
            account(&self.account, -1),
        )
    }

    /// A new user, and the file with which one connects.
    fn user(&self) -> (KeyPair, String) {
        let user = KeyPair::new_user();
        let nats = json!({
            "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
        });
        let jwt = jwt(&self.account, &user.public_key(), &nats);
        let seed = user.seed().unwrap();
        let file = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        (user, file)
    }
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn a_credentials_file_is_read_again_on_reload() {
    let operator = Operator::new();
    let options = || ConnectOptions::with_credentials(&operator.user().1).unwrap();
    let mut server = Server::with(&operator.settings(&json!({})), options());
    server.prepare();
    let (first, file) = operator.user();
    let mut service = Service::prepare("");
    std::fs::write(service.path("dpf.creds"), file).unwrap();
    service.configure(&format!("{SLOW}{}", server.toml("credentials_file = \"dpf.creds\"")));
    service.serve();
    server.publish([numbered(1)]);
    server.wait_until_empty();
    check(&service, 1);
    // The user is revoked and replaced by another one.
    let revoked = json!({first.public_key(): 2});
    server.reconfigure(&operator.settings(&revoked), options());
    wait_for(&service, "waiting", "not connected");
    std::fs::write(service.path("dpf.creds"), operator.user().1).unwrap();
    service.signal("HUP");
    server.publish([numbered(2)]);
    server.wait_until_empty();
    check(&service, 2);
}
