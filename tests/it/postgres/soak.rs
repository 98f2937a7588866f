//! Three instances under load, with all kinds of faults: kills, stops, freezes, interrupted and slow
//! networks, and crashes of the database. A run is judged from outside: by the answers that the submitter
//! got, and by the receivers' record. A seed determines all choices, but not the timing of the machine.
//!
//! `FLEET_SECONDS=1800 cargo test --test it -- --ignored --nocapture a_fleet_under_faults` is the soak.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::fleet::{receivers, within};
use crate::support::{Api, Forwarder, Receiver, Service, event, number, postgres::Server};

const INSTANCES: usize = 3;

/// An instance and its network.
struct Instance {
    service: Service,
    network: Forwarder,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillAndRestart,
    KillAndStayAway,
    Stop,
    Freeze,
    Cut,
    Hang,
    Slow,
    DatabaseCrash,
}

const FAULTS: [Fault; 8] = [
    Fault::KillAndRestart,
    Fault::KillAndStayAway,
    Fault::Stop,
    Fault::Freeze,
    Fault::Cut,
    Fault::Hang,
    Fault::Slow,
    Fault::DatabaseCrash,
];

fn instance(server: &Server) -> Instance {
    let network = Forwarder::to(([127, 0, 0, 1], server.port()).into());
    let service = Service::prepare(&format!(
        "outbox.postgres.url = \"postgresql://postgres@{}/postgres?sslmode=disable\"\n\
         outbox.postgres.schema = \"callbacks\"\n",
        network.address
    ));
    Instance { service, network }
}

/// Waits for a while, as part of a fault.
fn pass(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::thread::park_timeout(end - Instant::now());
    }
}

fn happen(fault: Fault, instance: &mut Instance, server: &mut Server, random: &mut fastrand::Rng) {
    let Instance { service, network } = instance;
    let seconds = |random: &mut fastrand::Rng, most| Duration::from_secs(random.u64(1..=most));
    match fault {
        Fault::KillAndRestart => service.kill(),
        Fault::KillAndStayAway => {
            service.kill();
            pass(seconds(random, 30));
        }
        Fault::Stop => assert_eq!(service.terminate(), Some(0)),
        Fault::Freeze => {
            service.signal("STOP");
            pass(seconds(random, 40));
            service.signal("CONT");
            return;
        }
        Fault::Cut => return network.cut(),
        Fault::Hang => {
            network.hang(true);
            pass(seconds(random, 40));
            network.hang(false);
            return;
        }
        Fault::Slow => {
            network.delay(Duration::from_millis(300));
            pass(seconds(random, 10));
            network.delay(Duration::ZERO);
            return;
        }
        Fault::DatabaseCrash => {
            server.crash();
            pass(seconds(random, 5));
            return server.restart();
        }
    }
    service.serve();
}

/// The API of the instance in this folder, if it has published its address.
fn api(folder: &Path) -> Option<Api> {
    let note = std::fs::read(folder.join("data/service.json")).ok()?;
    let note: Value = serde_json::from_slice(&note).ok()?;
    let token = std::fs::read_to_string(folder.join("data/api-token")).ok()?;
    let address = note["address"].as_str()?.parse().ok()?;
    Some(Api { address, certificate: None, token: token.trim().to_owned() })
}

/// Submits both events of each job until it is stopped. The second event is submitted to another instance
/// after the first was accepted. An event whose answer was lost is submitted again, with the same `eventId`.
/// Returns the jobs.
fn hand_in(
    first: usize,
    folders: &[PathBuf],
    receivers: &[Receiver],
    end: &AtomicBool,
) -> Vec<String> {
    let mut jobs = Vec::new();
    for number in 0.. {
        if end.load(Ordering::Relaxed) {
            break;
        }
        let job = format!("{first}-{number}");
        let url = receivers[(first + number) % receivers.len()].url("/");
        for (at, state) in ["job_sending", "job_finished"].into_iter().enumerate() {
            let mut event = event(state, &job, &url);
            event["eventId"] = format!("{job}-{state}").into();
            let accepted = || {
                let api = api(&folders[(first + at) % folders.len()])?;
                let kind = "application/json";
                let answer = api.ask("POST", "/v1/events", kind, &event.to_string())?;
                assert!([200, 202, 503].contains(&answer.status), "{answer:?}");
                (answer.status != 503).then_some(())
            };
            within(Duration::from_mins(5), "an event is accepted", accepted);
        }
        jobs.push(job);
        pass(Duration::from_millis(10));
    }
    jobs
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_fleet_under_faults_loses_nothing_and_keeps_the_order() {
    let seed = number("FLEET_SEED", fastrand::u64(..1_000_000_000));
    let time = Duration::from_secs(number("FLEET_SECONDS", 30));
    eprintln!("FLEET_SEED={seed} FLEET_SECONDS={}", time.as_secs());
    let mut random = fastrand::Rng::with_seed(seed);
    let mut server = Server::start();
    let mut instances: Vec<_> = (0..INSTANCES).map(|_| instance(&server)).collect();
    for it in &mut instances {
        it.service.serve();
    }
    let folders: Vec<_> = instances.iter().map(|it| it.service.folder().to_owned()).collect();
    let (receivers, end) = (receivers(), AtomicBool::new(false));
    let mut happened = BTreeMap::<Fault, u32>::new();
    let jobs: Vec<String> = std::thread::scope(|scope| {
        let submitters: Vec<_> = (0..INSTANCES)
            .map(|first| {
                scope.spawn({
                    let (folders, receivers, end) = (&folders, &receivers, &end);
                    move || hand_in(first, folders, receivers, end)
                })
            })
            .collect();
        let began = Instant::now();
        while began.elapsed() < time {
            pass(Duration::from_secs(random.u64(1..=5)));
            let fault = FAULTS[random.usize(..FAULTS.len())];
            let at = random.usize(..INSTANCES);
            happen(fault, &mut instances[at], &mut server, &mut random);
            *happened.entry(fault).or_default() += 1;
        }
        end.store(true, Ordering::Relaxed);
        submitters.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    let mut arrived = HashMap::new();
    within(Duration::from_mins(3), "everything has arrived", || {
        arrived = super::fleet::seen(&receivers);
        let is_complete = |job: &String| {
            arrived.get(job).is_some_and(|states| states.iter().any(|it| it == "FINISHED"))
        };
        jobs.iter().all(is_complete).then_some(())
    });
    let mut repeated = 0;
    for job in &jobs {
        let states = &arrived[job];
        // Only the first request of each kind counts: a repeat of the first event may arrive after the
        // second.
        let mut order: Vec<&str> = Vec::new();
        for state in states {
            if !order.contains(&state.as_str()) {
                order.push(state);
            }
        }
        assert_eq!(order, ["SENDING", "FINISHED"], "of job {job}: {states:?}, seed {seed}");
        repeated += states.len() - 2;
    }
    for it in &instances {
        within(Duration::from_mins(1), "each is ready", || {
            (api(it.service.folder())?.get("/readyz").status == 200).then_some(())
        });
    }
    eprintln!(
        "faults {happened:?}: {} callbacks accepted, 0 lost, {repeated} repeated, 0 out of order",
        2 * jobs.len()
    );
}
