//! Receivers with different behaviours. The response to each request is derived from the seed, the
//! event and the number of times that the event has been received, so that a seed always gives the same
//! receivers.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::history::{History, Seen, wall};
use crate::support::{PAUSE, RawReceiver, read_request};

/// Duration of each down and up phase of the receiver that is down half of the time.
const PHASE: Duration = Duration::from_millis(1200);

/// The behaviour of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Temper {
    Good,
    /// Slow, and sometimes never responds.
    Slow,
    /// 503, 500, or no response, part of the time.
    Flaky,
    /// 422, which is final, part of the time.
    Picky,
    /// Closes every connection half of the time.
    Down,
    /// Sometimes 503 with `Retry-After`, which holds the whole destination.
    Tired,
    /// Never accepts a callback.
    Never,
}

pub(super) const TEMPERS: [Temper; 8] = [
    Temper::Good,
    Temper::Good,
    Temper::Slow,
    Temper::Flaky,
    Temper::Picky,
    Temper::Down,
    Temper::Tired,
    Temper::Never,
];

/// How a request is answered; no status: the connection is closed.
struct Answer {
    status: Option<u16>,
    after: Duration,
    headers: &'static str,
}

struct Shared {
    seed: u64,
    history: Arc<History>,
    /// Whether each request is kept, or only counted.
    keep: bool,
    count: AtomicU64,
    /// Number of times that an event has been received.
    times: Mutex<HashMap<String, u32>>,
    begin: Instant,
    mended: AtomicBool,
    kind: AtomicBool,
}

/// All receivers of a run.
pub(super) struct Receivers {
    shared: Arc<Shared>,
    all: Vec<RawReceiver>,
}

impl Receivers {
    pub(super) fn start(seed: u64, history: &Arc<History>, keep: bool) -> Self {
        let shared = Arc::new(Shared {
            seed,
            history: Arc::clone(history),
            keep,
            count: AtomicU64::new(0),
            times: Mutex::default(),
            begin: Instant::now(),
            mended: AtomicBool::new(false),
            kind: AtomicBool::new(false),
        });
        let all = (0..TEMPERS.len())
            .map(|number| {
                let shared = Arc::clone(&shared);
                RawReceiver::start(move |stream| shared.serve(number, stream))
            })
            .collect();
        Self { shared, all }
    }

    pub(super) fn url(&self, number: usize, key: &str) -> String {
        format!("http://{}/{key}", self.all[number].address)
    }

    /// The sections of the settings that give each process its own token.
    pub(super) fn settings(&self) -> String {
        let section = |it: &RawReceiver| {
            format!("[auth.\"http://{}\"]\nbearer_token_file = \"process\"\n", it.address)
        };
        self.all.iter().map(section).collect()
    }

    /// From now on no receiver is slow, down or flaky; those that refuse everything still do.
    pub(super) fn mend(&self) {
        self.shared.mended.store(true, Ordering::SeqCst);
    }

    /// From now on all receivers accept everything.
    pub(super) fn be_kind(&self) {
        self.shared.kind.store(true, Ordering::SeqCst);
    }

    /// Number of requests received.
    pub(super) fn count(&self) -> u64 {
        self.shared.count.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, number: usize, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        while !self.is_down(number) {
            let request = read_request(&mut stream);
            // A process that was killed while sending has sent only a part.
            if !request.ends_with('}') {
                return;
            }
            let (place, answer) = self.take(number, &request);
            if self.is_down(number) {
                return;
            }
            let end = Instant::now() + answer.after;
            while Instant::now() < end {
                std::thread::park_timeout(PAUSE.min(end - Instant::now()));
            }
            let Some(status) = answer.status else {
                if answer.after > Duration::ZERO {
                    // Until the client gives up.
                    drop(stream.read(&mut [0]));
                }
                return;
            };
            if let Some(place) = place {
                let tick = self.history.tick();
                let mut seen = self.history.seen.lock().unwrap();
                seen[place].status = status;
                seen[place].answered = Some((tick, Instant::now()));
            }
            let headers = answer.headers;
            let text = format!("HTTP/1.1 {status} -\r\n{headers}content-length: 0\r\n\r\n");
            if stream.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn take(&self, destination: usize, request: &str) -> (Option<usize>, Answer) {
        let header = |name: &str| {
            let line = request.lines().find(|line| line.starts_with(&format!("{name}: ")));
            line.map(|line| line[name.len() + 2..].to_owned()).unwrap_or_default()
        };
        let path = request.split(' ').nth(1).unwrap_or_default();
        let key = path.trim_start_matches('/').to_owned();
        let process = header("authorization").rsplit('-').next().unwrap().parse().unwrap_or(0);
        self.count.fetch_add(1, Ordering::SeqCst);
        if !self.keep {
            let time = u32::try_from(self.count.load(Ordering::SeqCst) % 1_000_000).unwrap();
            return (None, self.decide(destination, &key, time));
        }
        let time = {
            let mut times = self.times.lock().unwrap();
            let time = times.entry(key.clone()).or_default();
            *time += 1;
            *time
        };
        let answer = self.decide(destination, &key, time);
        let body = request.split("\r\n\r\n").nth(1).unwrap_or_default();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let seen = Seen {
            arrived: self.history.tick(),
            wall: wall(),
            process,

            id: header("webhook-id"),
            attempt: header("callback-attempt").parse().unwrap(),
            key,
            job: body["jobId"].as_str().unwrap().to_owned(),
            answered: None,
            status: 0,
        };
        let mut all = self.history.seen.lock().unwrap();
        all.push(seen);
        (Some(all.len() - 1), answer)
    }

    fn is_down(&self, number: usize) -> bool {
        let phase = self.begin.elapsed().as_millis() / PHASE.as_millis();
        let mended = self.mended.load(Ordering::SeqCst) || self.kind.load(Ordering::SeqCst);
        TEMPERS[number] == Temper::Down && !mended && phase % 2 == 1
    }

    fn decide(&self, number: usize, key: &str, time: u32) -> Answer {
        let answer = |status| Answer { status, after: Duration::ZERO, headers: "" };
        let random = |time: u32| {
            let mut hasher = DefaultHasher::new();
            (self.seed, number, key, time).hash(&mut hasher);
            fastrand::Rng::with_seed(hasher.finish())
        };
        if self.kind.load(Ordering::SeqCst) {
            return answer(Some(200));
        }
        let mended = self.mended.load(Ordering::SeqCst);
        let mut dice = random(time);
        match (TEMPERS[number], dice.u32(..100)) {
            // It responds, so its breaker stays closed and its callbacks use up their attempts.
            (Temper::Never, _) => answer(Some(404)),
            // The same for every attempt, like a receiver that does not know the job.
            (Temper::Picky, _) if random(0).u32(..100) < 25 => answer(Some(422)),
            _ if mended => answer(Some(200)),
            (Temper::Slow, 0) => Answer { after: Duration::from_millis(1), ..answer(None) },
            (Temper::Slow, _) => {
                let after = Duration::from_millis(dice.u64(5..150));
                Answer { after, ..answer(Some(200)) }
            }
            (Temper::Flaky, 0..25) => answer(Some(503)),
            (Temper::Flaky, 25..35) => answer(Some(500)),
            (Temper::Flaky, 35..40) => answer(None),
            (Temper::Tired, 0..2) => Answer { headers: "retry-after: 1\r\n", ..answer(Some(503)) },
            _ => answer(Some(200)),
        }
    }
}
