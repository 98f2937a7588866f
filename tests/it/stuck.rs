//! Stuck jobs: missing rows, and lost claims.

use std::{fs, net::TcpListener};

use seal_dpf_urlcallback::{
    callback::CallbackId,
    outbox::{
        Readiness, Record, State,
        record::{Progress, decode, encode},
    },
};

use crate::support::{Answer, Receiver, Service, event, eventually, unused_address};

/// A store that is not open elsewhere, and whose rows can be removed.
struct Rows(sled::Db);

impl Rows {
    fn open(service: &Service) -> Self {
        Self(sled::open(service.path("data/outbox")).unwrap())
    }

    fn key(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
        [&[prefix], parts.concat().as_slice()].concat()
    }

    /// The two halves of an id: the position in the order of acceptance, and the destination.
    fn parts(id: &str) -> ([u8; 8], [u8; 8]) {
        let bytes = id.parse::<CallbackId>().unwrap().as_u128().to_be_bytes();
        (bytes[..8].try_into().unwrap(), bytes[8..].try_into().unwrap())
    }

    /// The row with an entry of this callback, and the byte range of its value.
    fn entry(
        &self,
        prefix: u8,
        id: &str,
        block: u64,
    ) -> (Vec<u8>, Vec<u8>, std::ops::Range<usize>) {
        let seq = u64::from_be_bytes(Self::parts(id).0);
        let first = seq - seq % block;
        let rows = Self::key(prefix, &[&first.to_be_bytes()])
            ..=Self::key(prefix, &[&(first + block - 1).to_be_bytes()]);
        for row in self.0.range(rows) {
            let (key, row) = row.unwrap();
            let mut at = 1;
            while at < row.len() {
                let len = u32::from_be_bytes(row[at + 1..at + 5].try_into().unwrap()) as usize;
                let entry = at + 5..at + 5 + len;
                if u64::from(row[at]) == seq % block {
                    return (key.to_vec(), row.to_vec(), entry);
                }
                at = entry.end;
            }
        }
        panic!("{id} has no such entry");
    }

    /// Makes a callback's record unreadable.
    fn corrupt(&self, id: &str) {
        let (key, mut row, entry) = self.entry(b'r', id, 16);
        row[entry].fill(0xff);
        self.0.insert(key, row).unwrap();
    }

    /// Removes a record, as if it had never been written.
    fn remove_callback(&self, id: &str) {
        let (key, mut row, entry) = self.entry(b'r', id, 16);
        row.drain(entry.start - 5..entry.end);
        if row.len() > 1 {
            self.0.insert(key, row).unwrap()
        } else {
            self.0.remove(key).unwrap()
        };
        self.remove_due(id);
    }

    /// Removes a callback from the set of pending callbacks.
    fn remove_from_set(&self, id: &str) {
        let (seq, queue) = Self::parts(id);
        let block = (u64::from_be_bytes(seq) / 1024).to_be_bytes();
        let key = Self::key(b'b', &[&queue, &block]);
        let row = self.0.get(&key).unwrap().unwrap();
        let offset = u16::try_from(u64::from_be_bytes(seq) % 1024).unwrap().to_be_bytes();
        // Two lists of positions, each preceded by its length.
        let (mut left, mut at) = (vec![row[0]], 1);
        for _ in 0..2 {
            let end = at + 1 + 2 * usize::from(row[at]);
            let members = row[at + 1..end].chunks(2).filter(|it| **it != offset);
            let members: Vec<_> = members.collect();
            left.push(u8::try_from(members.len()).unwrap());
            left.extend(members.concat());
            at = end;
        }
        self.0.insert(key, left).unwrap();
    }

    fn remove_due(&self, id: &str) {
        let (seq, queue_key) = Self::parts(id);
        let rows = self.0.scan_prefix(Self::key(b'd', &[&queue_key])).keys();
        let due = rows.map(Result::unwrap).find(|key| key.ends_with(&seq)).unwrap();
        self.0.remove(due).unwrap();
    }

    fn remove_from_job_index(&self, id: &str, job: &str) {
        let (seq, _) = Self::parts(id);
        let length = u8::try_from(job.len()).unwrap();
        let key = Self::key(b'j', &[&[length], job.as_bytes(), &seq]);
        assert!(self.0.remove(key).unwrap().is_some());
    }

    /// Marks a callback as blocked by an earlier one of its job.
    fn block(&self, id: &str) {
        let (key, row, entry) = self.entry(b's', id, 8);
        let progress: Progress = decode(&row[entry.clone()]).unwrap();
        let (_, record, accepted) = self.entry(b'r', id, 16);
        let record: Record = decode(&record[accepted]).unwrap();
        let record = record.with(Some(progress));
        let State::Pending(Readiness::Scheduled(at)) = record.state else { panic!("{record:?}") };
        self.remove_due(id);
        let blocked = Record { state: State::Pending(Readiness::Blocked(at)), ..record };
        let bytes = encode(&blocked.progress()).unwrap();
        let len = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let changed = [&row[..entry.start - 4], &len, &bytes, &row[entry.end..]].concat();
        self.0.insert(key, changed).unwrap();
    }
}

/// A stopped service with callbacks of these jobs, each with one attempt, and their receiver.
fn stopped(jobs: &[&str], settings: &str) -> (Service, TcpListener, Vec<[String; 2]>) {
    let address = unused_address();
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
    let jobs = ["record", "record and index", "due", "blocked", "set"];
    let (mut service, listener, ids) = stopped(&jobs, QUICK);
    let rows = Rows::open(&service);
    rows.remove_callback(&ids[0][0]);
    rows.remove_callback(&ids[1][0]);
    rows.remove_from_job_index(&ids[1][0], jobs[1]);
    rows.remove_due(&ids[2][0]);
    rows.block(&ids[3][0]);
    rows.remove_from_set(&ids[4][0]);
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
    let left = [&ids[0][1..], &ids[1][1..], &ids[2][..], &ids[3][..], &ids[4][..]].concat();
    left.iter().for_each(|id| drop(api.wait_for_state(id, "delivered")));
    assert_eq!(receiver.count(), left.len());
    let is_it = |line: &serde_json::Value| line["event.action"] == "store-mended";
    eventually("the log says so", || service.log().iter().any(is_it).then_some(()));
}

#[test]
fn irreparable_callbacks_are_counted_and_logged() {
    let (mut service, _listener, ids) = stopped(&["1", "2", "3"], QUICK);
    let is_it = |line: &serde_json::Value| line["event.action"] == "store-mended";
    assert!(!service.log().iter().any(is_it), "nothing was stuck");
    let rows = Rows::open(&service);
    rows.corrupt(&ids[0][0]);
    rows.corrupt(&ids[1][1]);
    drop(rows);
    service.serve();
    let api = service.api();
    eventually("the metric", || {
        let metrics = String::from_utf8(api.get("/metrics").body).unwrap();
        metrics.contains("\nurlcallback_stuck 2\n").then_some(())
    });
    let log = service.log();
    let stuck: u64 =
        log.iter().filter(|it| is_it(it)).map(|it| it["callback.stuck"].as_u64().unwrap()).sum();
    assert_eq!(stuck, 2);
    assert!(log.iter().filter(|it| is_it(it)).all(|it| it["callback.mended"] == 0));
    api.accept(&event("job_sending", "4", "http://127.0.0.1:1/"));
}

#[test]
fn a_doubtful_store_with_a_stuck_job_is_refused() {
    let (service, _listener, ids) = stopped(&["1"], QUICK);
    let rows = Rows::open(&service);
    rows.block(&ids[0][0]);
    drop(rows);
    // A witness that names other segments triggers a full check of all rows.
    let witness = service.path("data/outbox.witness");
    let text = fs::read_to_string(&witness).unwrap();
    let (known, _) = text.trim_end().rsplit_once(' ').unwrap();
    fs::write(&witness, format!("{known} {:016x}\n", 1)).unwrap();
    let output = service.run(&["serve"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("has 0 active callbacks"), "{text}");
}
