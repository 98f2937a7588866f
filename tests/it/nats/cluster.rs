//! A cluster of three servers, which works while one of them does not.

use std::time::{Duration, Instant};

use super::{SLOW, check, numbered, wait_for};
use crate::support::{Service, eventually, nats::Cluster};

/// Time limit until events are stored again.
const LIMIT: Duration = Duration::from_secs(30);

/// Checks that new events arrive while the cluster is in this condition.
fn goes_on(cluster: &Cluster, at: usize, service: &Service, count: &mut usize) {
    let begin = Instant::now();
    let server = &cluster.servers[at];
    eventually("the stream has a leader", || {
        server.run(async |context| {
            let stream = context.get_stream("JOBS").await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.as_ref().map(drop)
        })
    });
    server.publish((*count..*count + 100).map(numbered));
    *count += 100;
    // The leader of the consumer counts what its own replica of the stream has, which may lack the latest messages.
    eventually("all events are stored", || {
        let queue = service.api().queue();
        let stored = ["pending", "delivered", "failed"].map(|name| queue[name].as_u64().unwrap());
        (stored.iter().sum::<u64>() >= *count as u64).then_some(())
    });
    server.wait_until_empty();
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
    check(service, *count);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn leader_changes_drains_and_kills_of_servers_stop_nothing() {
    let mut cluster = Cluster::start();
    cluster.prepare();
    let service = Service::start(&format!("{SLOW}{}", cluster.toml()));
    wait_for(&service, "pulling", "");
    let mut count = 0;
    goes_on(&cluster, 0, &service, &mut count);
    for subject in
        ["$JS.API.STREAM.LEADER.STEPDOWN.JOBS", "$JS.API.CONSUMER.LEADER.STEPDOWN.JOBS.callbacks"]
    {
        cluster.servers[0].run(async |context| {
            let answer = context.client().request(subject, "".into()).await.unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
            assert_eq!(answer["success"], true, "{answer}");
        });
        goes_on(&cluster, 0, &service, &mut count);
    }
    for leaving in 0..3 {
        // It asks its clients to use another server, and then ends.
        cluster.servers[leaving].signal("USR2");
        goes_on(&cluster, (leaving + 1) % 3, &service, &mut count);
        eventually("the server has ended", || cluster.servers[leaving].has_ended().then_some(()));
        cluster.servers[leaving].restart();
        cluster.wait_until_whole();
    }
    for dying in 0..3 {
        cluster.servers[dying].crash();
        goes_on(&cluster, (dying + 1) % 3, &service, &mut count);
        cluster.servers[dying].restart();
        cluster.wait_until_whole();
    }
}
