//! `cargo bench --bench micro`: the cost of each step of a callback, measured separately. The steps of the
//! store are synced to the project's disk, so the results of the commit path depend more on that disk than on
//! the code.

use std::{path::Path, sync::Arc};

use divan::{Bencher, black_box, counter::ItemsCount};
use seal_dpf_urlcallback::{
    callback::{CallbackId, Destination, parse_url, redact_url},
    clock::{Clock as _, SystemClock},
    egress::Policy,
    event,
    outbox::{
        Claim, NewCallback, Outbox as _, Record, Sequence, Settlement,
        record::{decode, encode},
        sled::{Settings, SledOutbox},
        transition,
    },
};

mod sample;

use sample::{attempt, new};

/// The allocator of the service.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

const EVENT: &[u8] = br#"{"event":"job_finished","jobId":"4711","jobIdFs":"20160000004711","exitStatus":"OK","dpfTrackerUrl":"http://dpfsrv03:9125/cgi-bin/dpftracker?job=20160000004711","parameters":{"DpfControlCallbackUrl":"http://callbackhost:8080/ourjobmanager/ourjobno/4711"}}"#;

const URL: &str = "http://callbackhost:8080/ourjobmanager/ourjobno/4711";

fn to() -> Destination {
    Destination::parse(URL).unwrap_or_else(Destination::none)
}

fn record() -> Record {
    transition::accept(new(4711, &to()), CallbackId::from_u128(1 << 64), SystemClock.now(), true)
}

#[divan::bench]
fn event_parse() -> bool {
    event::parse(black_box(EVENT)).is_ok()
}

#[divan::bench]
fn url_parse() -> bool {
    parse_url(black_box(URL)).is_ok()
}

#[divan::bench]
fn url_redact() -> String {
    redact_url(black_box(URL))
}

#[divan::bench]
fn url_check(bencher: Bencher<'_, '_>) {
    let policy = Policy::default();
    if let Ok(url) = parse_url("http://10.1.2.3:8080/") {
        bencher.bench(|| policy.check_url(black_box(&url)).is_ok());
    }
}

#[divan::bench]
fn body_to_json(bencher: Bencher<'_, '_>) {
    let record = record();
    bencher.bench(|| black_box(&record).body.to_json());
}

#[divan::bench]
fn record_encode(bencher: Bencher<'_, '_>) {
    let record = record();
    bencher.bench(|| encode(black_box(&record)));
}

#[divan::bench]
fn record_decode(bencher: Bencher<'_, '_>) {
    if let Ok(bytes) = encode(&record()) {
        bencher.bench(|| decode::<Record>(black_box(&bytes)));
    }
}

/// A separate store on the project's disk.
struct Store {
    outbox: SledOutbox,
    to: Destination,
    next: std::cell::Cell<usize>,
    runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Store {
    fn open() -> Option<Self> {
        let folder = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).ok()?;
        let dir = folder.path().join("outbox");
        let outbox = SledOutbox::open(&dir, Settings::default(), Arc::new(SystemClock)).ok()?;
        let to = to();
        let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
        Some(Self { outbox, to, next: 0.into(), runtime, _folder: folder })
    }

    fn batch(&self, size: usize) -> Vec<NewCallback> {
        let from = self.next.get();
        self.next.set(from + size);
        (from..from + size).map(|job| new(job, &self.to)).collect()
    }

    fn enqueue(&self, batch: Vec<NewCallback>) -> bool {
        self.runtime.block_on(self.outbox.enqueue(batch, Sequence::default())).is_ok()
    }

    fn claim(&self, limit: usize) -> Vec<Claim> {
        let claims = self.outbox.claim(&self.to, limit, SystemClock.now());
        claims.map(|claims| claims.claimed).unwrap_or_default()
    }
}

const BATCHES: [usize; 3] = [1, 64, 1024];

#[divan::bench(args = BATCHES, max_time = 3)]
fn commit_accepted(bencher: Bencher<'_, '_>, size: usize) {
    if let Some(store) = Store::open() {
        bencher
            .counter(ItemsCount::new(size))
            .with_inputs(|| store.batch(size))
            .bench_local_values(|batch| store.enqueue(batch));
    }
}

#[divan::bench(args = BATCHES, max_time = 3)]
fn claim(bencher: Bencher<'_, '_>, size: usize) {
    if let Some(store) = Store::open() {
        bencher
            .counter(ItemsCount::new(size))
            .with_inputs(|| store.enqueue(store.batch(size)))
            .bench_local_values(|_| store.claim(size));
    }
}

#[divan::bench(args = BATCHES, max_time = 3)]
fn commit_delivered(bencher: Bencher<'_, '_>, size: usize) {
    if let Some(store) = Store::open() {
        let claimed = || {
            store.enqueue(store.batch(size));
            store.claim(size)
        };
        bencher.counter(ItemsCount::new(size)).with_inputs(claimed).bench_local_values(|claims| {
            let settled: Vec<_> = claims
                .into_iter()
                .map(|claim| {
                    let attempt = attempt(claim.record.next_attempt());
                    store.outbox.settle(claim, Settlement::Delivered(attempt))
                })
                .collect();
            settled.into_iter().all(|one| store.runtime.block_on(one).is_ok())
        });
    }
}
