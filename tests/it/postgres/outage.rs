//! Outages of the database.

use serde_json::Value;

use crate::support::{Answer, Receiver, Service, event, eventually, postgres::Server};

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn without_the_database_the_service_is_alive_but_not_ready_and_loses_nothing() {
    let mut server = Server::start();
    let mut service = Service::prepare(&server.toml("callbacks"));
    service.serve();
    let receiver = Receiver::start();
    let api = service.api();
    let mut accepted = Vec::new();
    for round in 0..3 {
        for job in 0..20 {
            let job = format!("{round}-{job}");
            accepted.push(api.accept(&event("job_sending", &job, &receiver.url("/"))));
        }
        server.crash();
        eventually("it is not ready", || (api.get("/readyz").status == 503).then_some(()));
        assert_eq!(api.get("/healthz").status, 200);
        let refused = api.post("/v1/events", &event("job_sending", "refused", &receiver.url("/")));
        assert_eq!(refused.status, 503);
        server.restart();
        eventually("it is ready again", || (api.get("/readyz").status == 200).then_some(()));
    }
    for id in &accepted {
        api.wait_for_state(id, "delivered");
    }
    let away =
        service.log().iter().filter(|line| line["event.action"] == "store-disconnected").count();
    assert_eq!(away, 3);
    assert_eq!(service.terminate(), Some(0));
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn an_outcome_during_an_outage_is_recorded_afterwards() {
    let mut server = Server::start();
    let mut service = Service::prepare(&server.toml("callbacks"));
    service.serve();
    let receiver = Receiver::answering(Vec::new(), Answer::Wait);
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    receiver.wait_for(1);
    server.crash();
    eventually("it is not ready", || (api.get("/readyz").status == 503).then_some(()));
    receiver.open();
    server.restart();
    let callback = api.wait_for_state(&id, "delivered");
    assert_eq!((&callback["attemptCount"], receiver.count()), (&1.into(), 1));
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn an_instance_works_with_a_schema_that_a_newer_version_migrated() {
    let mut server = Server::start();
    let mut service = Service::prepare(&server.toml("callbacks"));
    service.serve();
    let newer = "UPDATE callbacks.meta SET version = version + 1";
    server.run(async |client| client.batch_execute(newer).await.unwrap());
    // Its session breaks.
    server.crash();
    server.restart();
    let (api, receiver) = (service.api(), Receiver::start());
    eventually("it is ready again", || (api.get("/readyz").status == 200).then_some(()));
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    api.wait_for_state(&id, "delivered");
    assert_eq!(service.terminate(), Some(0));
    service.serve();
    let version = "SELECT version FROM callbacks.meta";
    let version: i32 =
        server.run(async |client| client.query_one(version, &[]).await.unwrap().get(0));
    assert_eq!(version, 2, "the older version has taken the schema back");
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn while_the_database_hangs_no_attempt_starts() {
    let mut server = Server::start();
    let text = "retry.initial_interval = \"11s\"\nretry.max_interval = \"11s\"\nretry.jitter = 0\n";
    let mut service = Service::prepare(&(server.toml("callbacks") + text));
    service.serve();
    let receiver = Receiver::answering(vec![Answer::Status(503)], Answer::Status(200));
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    eventually("the retry is planned", || (api.callback(&id)["attemptCount"] == 1).then_some(()));
    server.freeze(true);
    // The retry was read ahead, and is due three seconds after the latest time at which it may start.
    eventually("the session is abandoned", || {
        let given_up = |line: &Value| line["event.action"] == "store-disconnected";
        service.log().iter().any(given_up).then_some(())
    });
    assert_eq!(receiver.count(), 1, "an attempt started without an answer of the database");
    server.freeze(false);
    api.wait_for_state(&id, "delivered");
}
