//! Stuck jobs: missing rows, and lost claims.

use std::{fs, net::TcpListener};

use seal_dpf_urlcallback::{
    callback::CallbackId,
    outbox::{
        Readiness, Record, State,
        record::{decode, encode},
    },
};

use crate::support::{Answer, Receiver, Service, event, eventually};

/// A store whose rows can be taken away; nothing else has it open.
struct Rows(sled::Db);

impl Rows {
    fn open(service: &Service) -> Self {
        Self(sled::open(service.path("data/outbox")).unwrap())
    }

    fn key(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
        [&[prefix], parts.concat().as_slice()].concat()
    }

    /// The two halves of an id: the place in the order of acceptance, and the destination.
    fn parts(id: &str) -> ([u8; 8], [u8; 8]) {
        let bytes = id.parse::<CallbackId>().unwrap().as_u128().to_be_bytes();
        (bytes[..8].try_into().unwrap(), bytes[8..].try_into().unwrap())
    }

    fn pending(id: &str) -> Vec<u8> {
        let (seq, lane) = Self::parts(id);
        Self::key(b'p', &[&lane, &seq])
    }

    /// Makes a callback's row one that cannot be read.
    fn corrupt(&self, id: &str) {
        let row = b"\x01\x00broken".as_slice();
        assert!(self.0.insert(Self::pending(id), row).unwrap().is_some());
    }

    fn remove_callback(&self, id: &str) {
        assert!(self.0.remove(Self::pending(id)).unwrap().is_some());
        self.remove_due(id);
    }

    fn remove_due(&self, id: &str) {
        let (seq, lane) = Self::parts(id);
        let rows = self.0.scan_prefix(Self::key(b'd', &[&lane])).keys();
        let due = rows.map(Result::unwrap).find(|key| key.ends_with(&seq)).unwrap();
        self.0.remove(due).unwrap();
    }

    fn remove_from_line(&self, id: &str, job: &str) {
        let (seq, _) = Self::parts(id);
        let length = u8::try_from(job.len()).unwrap();
        let key = Self::key(b'j', &[&[length], job.as_bytes(), &seq]);
        assert!(self.0.remove(key).unwrap().is_some());
    }

    /// As if an earlier one of its job had to end first.
    fn block(&self, id: &str) {
        let bytes = self.0.get(Self::pending(id)).unwrap().unwrap();
        let record: Record = decode(&bytes).unwrap();
        let State::Pending(Readiness::Scheduled(at)) = record.state else { panic!("{record:?}") };
        self.remove_due(id);
        let blocked = Record { state: State::Pending(Readiness::Blocked(at)), ..record };
        self.0.insert(Self::pending(id), encode(&blocked).unwrap()).unwrap();
    }
}

/// A service that has stopped, with callbacks of these jobs that were tried once; and where they go.
fn stopped(jobs: &[&str], settings: &str) -> (Service, TcpListener, Vec<[String; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut service = Service::start(settings);
    let api = service.api();
    let url = format!("http://{address}/");
    let accept = |kind: &str, job: &&str| api.accept(&event(kind, job, &url));
    let ids: Vec<_> = jobs
        .iter()
        .map(|job| ["job_sending", "job_finished"].map(|kind| accept(kind, job)))
        .collect();
    for [first, _] in &ids {
        eventually("an attempt", || (api.callback(first)["attemptCount"] != 0).then_some(()));
    }
    assert_eq!(service.terminate(), Some(0));
    (service, TcpListener::bind(address).unwrap(), ids)
}

const QUICK: &str =
    "breaker.failures = 0\nretry.initial_interval = \"50ms\"\nretry.max_interval = \"100ms\"";

#[test]
fn stuck_jobs_are_reported_and_repaired() {
    let jobs = ["row of the line", "head", "due", "blocked"];
    let (mut service, listener, ids) = stopped(&jobs, QUICK);
    let rows = Rows::open(&service);
    rows.remove_callback(&ids[0][0]);
    rows.remove_callback(&ids[1][0]);
    rows.remove_from_line(&ids[1][0], jobs[1]);
    rows.remove_due(&ids[2][0]);
    rows.block(&ids[3][0]);
    drop(rows);
    fs::remove_file(service.path("data/outbox.witness")).unwrap();

    let shown = String::from_utf8(service.run(&["inspect-queue"]).stdout).unwrap();
    for id in [&ids[1][1], &ids[3][0]] {
        let line = shown.lines().find(|line| line.contains(&**id)).unwrap();
        assert!(line.contains("stuck"), "{line}");
    }
    let one = service.json(&["inspect-queue", "--id", &ids[1][1], "--output", "json"]);
    assert_eq!(one["stuck"], true, "{one}");

    let receiver = Receiver::listening(listener, vec![], Answer::Status(200));
    service.serve();
    let api = service.api();
    let left = [&ids[0][1..], &ids[1][1..], &ids[2][..], &ids[3][..]].concat();
    left.iter().for_each(|id| drop(api.wait_for_state(id, "delivered")));
    assert_eq!(receiver.count(), left.len());
    let is_it = |line: &serde_json::Value| line["event.action"] == "store-mended";
    eventually("the log says so", || service.log().iter().any(is_it).then_some(()));
}

#[test]
fn what_cannot_be_repaired_is_counted_and_logged_and_a_sound_store_is_not() {
    let (mut service, _listener, ids) = stopped(&["1", "2", "3"], QUICK);
    let is_it = |line: &serde_json::Value| line["event.action"] == "store-mended";
    assert!(!service.log().iter().any(is_it), "nothing was stuck");
    let rows = Rows::open(&service);
    rows.corrupt(&ids[0][0]);
    rows.corrupt(&ids[1][1]);
    drop(rows);
    service.serve();
    let api = service.api();
    // Two jobs and two callbacks.
    eventually("the metric", || {
        let metrics = String::from_utf8(api.get("/metrics").body).unwrap();
        metrics.contains("\nurlcallback_stuck 4\n").then_some(())
    });
    let log = service.log();
    let stuck: u64 =
        log.iter().filter(|it| is_it(it)).map(|it| it["callback.stuck"].as_u64().unwrap()).sum();
    assert_eq!(stuck, 4);
    assert!(log.iter().filter(|it| is_it(it)).all(|it| it["callback.mended"] == 0));
    api.accept(&event("job_sending", "4", "http://127.0.0.1:1/"));
}

#[test]
fn a_doubtful_store_with_a_stuck_job_is_refused() {
    let (service, _listener, ids) = stopped(&["1"], QUICK);
    let rows = Rows::open(&service);
    rows.block(&ids[0][0]);
    drop(rows);
    // A witness that speaks of other segments has all rows compared.
    let witness = service.path("data/outbox.witness");
    let text = fs::read_to_string(&witness).unwrap();
    let (known, _) = text.trim_end().rsplit_once(' ').unwrap();
    fs::write(&witness, format!("{known} {:016x}\n", 1)).unwrap();
    let output = service.run(&["serve"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("a job has 0 active callbacks"), "{text}");
}
