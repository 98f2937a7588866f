//! A server with a standby, which is promoted.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::fleet::within;
use crate::support::{Receiver, Service, event, eventually, postgres::Server};

/// A service over a server and its standby.
fn over(server: &Server, standby: &Server) -> Service {
    Service::prepare(&format!(
        "outbox.postgres.url = \"{}\"\noutbox.postgres.schema = \"callbacks\"\n",
        server.url_with(standby)
    ))
}

/// Waits until the server reports its standby in this state.
fn replicates(server: &Server, state: &str) {
    let sql =
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = $1";
    eventually("the standby streams", || {
        let count: i64 =
            server.run(async |client| client.query_one(sql, &[&state]).await.unwrap().get(0));
        (count == 1).then_some(())
    });
}

fn is_ready(service: &Service) {
    within(Duration::from_mins(1), "it is ready", || {
        (service.api().get("/readyz").status == 200).then_some(())
    });
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn nothing_is_lost_when_a_synchronous_standby_takes_over_under_load() {
    let mut server = Server::with(&["synchronous_standby_names=standby"]);
    let standby = server.standby();
    replicates(&server, "sync");
    let mut service = over(&server, &standby);
    let checked = service.run(&["check-config"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && said.contains("streaming, sync"), "{said} {checked:?}");
    service.serve();
    let receiver = Receiver::start();
    let api = service.api();
    let mut accepted = HashMap::new();
    let (url, mut job) = (receiver.url("/"), 0);
    // Some are submitted before the server crashes, some during that time, and some afterwards.
    let mut hand_in = |until: usize| {
        while accepted.len() < until {
            job += 1;
            let answer = api.post("/v1/events", &event("job_sending", &job.to_string(), &url));
            if answer.status == 202 {
                accepted.insert(job, answer.json()["id"].as_str().unwrap().to_owned());
            } else {
                assert_eq!(answer.status, 503);
            }
        }
    };
    hand_in(50);
    server.crash();
    standby.promote();
    is_ready(&service);
    hand_in(100);
    for id in accepted.values() {
        api.wait_for_state(id, "delivered");
    }
    let ids: HashSet<_> = accepted.values().collect();
    assert_eq!(ids.len(), accepted.len(), "an id was given twice");
    let jobs: HashSet<String> = receiver
        .puts()
        .iter()
        .map(|put| put.json()["jobId"].as_str().unwrap().to_owned())
        .collect();
    assert!(accepted.keys().all(|job| jobs.contains(&job.to_string())));
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_standby_that_lags_gives_no_id_twice() {
    let mut server = Server::start();
    let mut standby = server.standby();
    replicates(&server, "async");
    for command in ["serve", "check-config"] {
        let refused = Service::prepare(&standby.toml("callbacks")).run(&[command]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("is a standby"), "{said}");
    }
    let mut service = over(&server, &standby);
    service.serve();
    let receiver = Receiver::start();
    let api = service.api();
    let hand_in = |job: &str| api.accept(&event("job_sending", job, &receiver.url("/")));
    let before = hand_in("before");
    api.wait_for_state(&before, "delivered");
    eventually("the standby has it", || {
        let sql = "SELECT count(*) FROM callbacks.progress WHERE status = 1";
        let has: i64 = standby.run(async |client| client.query_one(sql, &[]).await.unwrap().get(0));
        (has == 1).then_some(())
    });
    // Later commits do not reach the standby.
    standby.freeze(true);
    let lost: HashSet<_> = (0..20).map(|job| hand_in(&format!("lost-{job}"))).collect();
    server.crash();
    standby.freeze(false);
    standby.promote();
    is_ready(&service);
    for job in 0..60 {
        let id = hand_in(&format!("after-{job}"));
        assert!(!lost.contains(&id) && id != before, "the id {id} was given twice");
        api.wait_for_state(&id, "delivered");
    }
    assert_eq!(api.callback(&before)["state"], "delivered");
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_commit_that_did_not_wait_for_its_standby_is_not_acknowledged() {
    let server = Server::with(&["synchronous_standby_names=standby"]);
    let mut standby = server.standby();
    replicates(&server, "sync");
    let mut service = over(&server, &standby);
    service.serve();
    let receiver = Receiver::start();
    let api = service.api();
    standby.crash();
    let url = receiver.url("/");
    std::thread::scope(|scope| {
        let handed_in =
            scope.spawn(|| api.post("/v1/events", &event("job_sending", "1", &url)).status);
        // An operator cancels the wait.
        let cancel =
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        eventually("the event has its answer", || {
            server.run(async |client| client.batch_execute(cancel).await.unwrap());
            handed_in.is_finished().then_some(())
        });
        assert_eq!(handed_in.join().unwrap(), 503);
    });
    standby.restart();
    is_ready(&service);
}
