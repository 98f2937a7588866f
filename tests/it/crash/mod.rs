//! The real binary under load, killed with SIGKILL at random moments and restarted; and the same load
//! for a long time without a kill.
//!
//! A run is judged from outside: by the answers that submitters and operators got, and by the
//! receivers' own record. A seed determines all choices of a run, but not the timing of the machine; so
//! a seed gives the same load and the same kills, but not the same run.

#[cfg(target_os = "linux")]
mod faults;
mod history;
mod idle;
mod load;
mod operator;
mod order;
mod receivers;
mod soak;
mod verdict;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use self::{
    history::{Action, HandedIn, History},
    load::{Stage, Submitter},
    operator::{call, operate, resume_all},
    receivers::Receivers,
};
use crate::support::{Api, DEADLINE, PAUSE, Service, number};

/// `retry.max_attempts` of these runs.
const MAX_ATTEMPTS: u64 = 8;

/// If something is due and no request arrives for this long, a wake-up was lost.
const STALLED: Duration = Duration::from_secs(30);

/// How many lines a batch has at most.
const BATCH: usize = 40;

fn seed() -> u64 {
    number("CRASH_SEED", fastrand::u64(..1_000_000_000))
}

/// A service with its load: it can be killed, started and drained.
struct Run {
    service: Service,
    stage: Arc<Stage>,
    process: u32,
    load: Vec<std::thread::JoinHandle<()>>,
}

impl Run {
    /// Starts the receivers; `settings` are added to those of the run.
    fn prepare(seed: u64, settings: &str, forgets: bool) -> Self {
        let history = Arc::new(History::default());
        let receivers = Receivers::start(seed, &history, !forgets);
        let settings = format!(
            "{settings}\nretry.initial_interval = \"30ms\"\nretry.max_interval = \"300ms\"\n\
             retry.max_attempts = {MAX_ATTEMPTS}\nbreaker.initial_pause = \"50ms\"\n\
             breaker.max_pause = \"300ms\"\ndelivery.timeout = \"5s\"\n{}",
            receivers.settings()
        );
        let service = Service::prepare(&settings);
        let stage = Arc::new(Stage {
            history,
            receivers,
            service: RwLock::default(),
            without_disk: AtomicU32::new(0),
            pending: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            forgets,
        });
        Self { service, stage, process: 0, load: Vec::new() }
    }

    /// Starts the submitters and the operators.
    fn load(&mut self, seed: u64) {
        let begin = |number: usize| {
            let stage = Arc::clone(&self.stage);
            std::thread::spawn(move || match number {
                0 | 1 => Submitter::new(&stage, seed, number, 0).run(),
                2 => Submitter::new(&stage, seed, number, BATCH).run(),
                _ => operate(&stage, seed.wrapping_add(number as u64 + 1)),
            })
        };
        self.load = (0..7).map(begin).collect();
    }

    fn serve(&mut self) {
        self.process += 1;
        std::fs::write(self.service.path("process"), format!("process-{}", self.process)).unwrap();
        self.service.serve();
        *self.stage.service.write().unwrap() = Some((self.process, self.service.api()));
    }

    fn kill(&mut self) {
        self.service.kill();
        self.ended();
    }

    fn ended(&self) {
        *self.stage.service.write().unwrap() = None;
        let said = self.service.read("stderr");
        if said.contains("panicked") {
            self.stage.history.fault(said);
        }
    }

    /// From now on the disk fails in this way, and the process may respond that it cannot write.
    #[cfg(target_os = "linux")]
    fn break_disk(&self, how: &str) {
        self.stage.without_disk.store(self.process, Ordering::SeqCst);
        self.service.fail_disk(how);
    }

    /// Lets the load continue until then, and updates its number of pending callbacks.
    fn go_on(&self, until: Instant) {
        let api = self.service.api();
        while Instant::now() < until {
            let queue = api.ask("GET", "/v1/queue", "", "").map(|queue| queue.json());
            if let Some(pending) = queue.and_then(|queue| queue["pending"].as_u64()) {
                self.stage.pending.store(pending, Ordering::SeqCst);
            }
            let left = until.saturating_duration_since(Instant::now());
            std::thread::park_timeout(left.min(PAUSE * 10));
        }
    }

    /// Ends the load.
    fn stop(&mut self) {
        self.stage.stop.store(true, Ordering::SeqCst);
        self.load.drain(..).for_each(|thread| thread.join().unwrap());
    }

    /// Waits until nothing is pending any more.
    fn drain(&self) {
        let api = self.service.api();
        resume_all(&api);
        let end = Instant::now() + DEADLINE;
        let (mut count, mut since) = (self.stage.receivers.count(), Instant::now());
        loop {
            let queue = api.queue();
            if queue["pending"] == 0 {
                return;
            }
            let now = self.stage.receivers.count();
            if now != count {
                (count, since) = (now, Instant::now());
            }
            let stalled = queue["due"] != 0 && since.elapsed() > STALLED;
            let late = stalled || Instant::now() > end;
            assert!(!late, "what is due is not sent: {queue}\n{}", self.dump());
            std::thread::park_timeout(PAUSE * 4);
        }
    }

    /// Information for finding out why there is no progress.
    fn dump(&self) -> String {
        let mut text =
            self.service.api().get("/v1/callbacks?state=pending&limit=20").json().to_string();
        let tasks = format!("/proc/{}/task", self.service.pid());
        for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let (name, place) = (read("comm"), read("wchan"));
            write!(text, "\n{} {place} {}", name.trim(), read("syscall").trim()).unwrap();
        }
        let slow = ["commit-slow", "claim-failed", "settle-failed", "store-stopped"];
        let log = self.service.read("service.log");
        for line in log.lines().filter(|line| slow.iter().any(|word| line.contains(word))) {
            write!(text, "\n{line}").unwrap();
        }
        text
    }

    /// Everything that is stored.
    fn stored(&self) -> Vec<Value> {
        let api = self.service.api();
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let mut page = api.get(&format!("/v1/callbacks?limit=1000{cursor}")).json();
            all.append(page["callbacks"].as_array_mut().unwrap());
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let queue = api.queue();
        let counted = ["pending", "delivered", "failed"].map(|name| queue[name].as_u64().unwrap());
        if counted.iter().sum::<u64>() != all.len() as u64 {
            self.stage.history.fault(format!("{} are stored, counted are {queue}", all.len()));
        }
        all
    }

    /// Submits every event that has an `eventId` once more.
    fn hand_in_all_again(&self) {
        let stage = &self.stage;
        let mut events = stage.history.events.lock().unwrap();
        let mut known: Vec<_> = events.iter_mut().filter(|it| it.idempotency.is_some()).collect();
        for chunk in known.chunks_mut(1000) {
            let lines: Vec<_> =
                chunk.iter().map(|event| load::body(&stage.receivers, event).to_string()).collect();
            let sent: Vec<_> = chunk.iter().map(|_| stage.history.tick()).collect();
            let response = self.service.api().post_bytes("application/x-ndjson", lines.join("\n"));
            let said = load::said(&response, chunk.len());
            let answered = stage.history.tick();
            for ((event, sent), said) in chunk.iter_mut().zip(sent).zip(said) {
                event.handed_in.push(HandedIn { sent, answered, request: u64::MAX, said });
            }
        }
    }

    fn judge(&self) -> verdict::Verdict {
        let api: Api = self.service.api();
        let detail = |id: &str| api.callback(id);
        verdict::judge(&self.stage.history, &self.stored(), &detail)
    }

    /// Ends the load and judges the result, then replays all failed callbacks and judges again.
    fn end(&mut self, seed: u64, what: &str) {
        self.stage.receivers.mend();
        self.stop();
        self.drain();
        self.hand_in_all_again();
        self.drain();
        let verdict = self.judge();
        eprintln!("crash: seed {seed}, {what}, {verdict}");
        assert!(verdict.is_good(), "CRASH_SEED={seed}");
        assert!(verdict.accepted > 0 && verdict.delivered > 0 && verdict.failed > 0);

        // Failed callbacks can be sent now, each job in its order.
        self.stage.receivers.be_kind();
        assert!(call(&self.stage, self.process, &self.service.api(), Action::ReplayAll));
        self.drain();
        let again = self.judge();
        assert!(again.is_good(), "CRASH_SEED={seed}, all replayed: {again}");
        let reasons = reasons(&self.stored());
        assert!(reasons.keys().all(|reason| reason == "invalid_url"), "failed: {reasons:?}");
    }
}

/// Kills the service this many times, each time after at most `longest`.
fn killed(kills: u64, longest: Duration) {
    let seed = seed();
    eprintln!("crash: CRASH_SEED={seed} CRASH_KILLS={kills}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut run = Run::prepare(seed, "", false);
    run.serve();
    run.load(seed);
    for kill in 0..kills {
        // Most kills are early, so some processes are killed just after their start. But some processes live
        // long enough to have recorded much durably.
        let moment = if kill % 25 == 12 {
            2 * verdict::HEARD
        } else {
            let part = random.f64() * random.f64();
            longest.mul_f64(part) + Duration::from_millis(random.u64(..20))
        };
        run.go_on(Instant::now() + moment);
        run.kill();
        run.serve();
    }
    run.end(seed, &format!("kills {kills}"));
    let log = run.service.read("service.log");
    for action in ["claim-failed", "settle-failed", "store-stopped", "upkeep-failed"] {
        let line = log.lines().find(|line| line.contains(action));
        assert_eq!(line, None, "CRASH_SEED={seed}");
    }
}

/// The failed callbacks by reason.
fn reasons(stored: &[Value]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for one in stored.iter().filter(|it| it["state"] == "failed") {
        *reasons.entry(one["lastError"]["kind"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    reasons
}

#[test]
fn kills_lose_nothing_repeat_only_what_was_in_flight_and_keep_the_order() {
    killed(number("CRASH_KILLS", 25), Duration::from_secs(3));
}

#[test]
#[ignore = "a soak: CRASH_KILLS=300 cargo test --release --test it -- --ignored --nocapture soak_of_kills"]
fn soak_of_kills() {
    killed(number("CRASH_KILLS", 300), Duration::from_secs(8));
}
