//! Submitters: their actions follow from their seed, and every answer, or its absence, is recorded.

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use serde_json::Value;

use super::{
    history::{Acknowledged, Event, HandedIn, History, Said},
    receivers::{Receivers, TEMPERS},
};
use crate::support::{Api, PAUSE, Response, event};

/// The number of pending callbacks at which the submitters wait, so that the machine's speed does not matter.
/// In every second run, one destination has more than a claim scans.
const ENOUGH_PENDING: [u64; 2] = [400, 6_000];

/// Number of jobs that a submitter has in progress at the same time.
const JOBS: usize = 8;

/// How many of the latest events are submitted again, cancelled and replayed.
pub(super) const RECENT: usize = 400;

/// The state shared by all threads of a run.
pub(super) struct Stage {
    pub(super) history: Arc<History>,
    pub(super) receivers: Receivers,
    /// The running process: its number and its API.
    pub(super) service: RwLock<Option<(u32, Api)>>,
    /// The process whose disk fails. Only this process may respond with 503. The outcome of such a write is
    /// unknown until the next start.
    pub(super) without_disk: AtomicU32,
    pub(super) pending: AtomicU64,
    pub(super) stop: AtomicBool,
    /// Whether the service removes ended callbacks. If so, the test does too, and only immediate errors are
    /// detected.
    pub(super) forgets: bool,
}

impl Stage {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub(super) fn refuses(&self, process: u32, response: &Response) -> bool {
        response.status == 503 && process == self.without_disk.load(Ordering::SeqCst)
    }

    /// The API, once a process other than `after` runs; `None` at the end.
    pub(super) fn api(&self, after: u32) -> Option<(u32, Api)> {
        while !self.stopped() {
            let running = self.service.read().unwrap().clone();
            match running {
                Some((process, api)) if process != after => return Some((process, api)),
                _ => std::thread::park_timeout(PAUSE),
            }
        }
        None
    }
}

/// A submitter: jobs with several callbacks each, single events or batches.
pub(super) struct Submitter<'a> {
    stage: &'a Stage,
    random: fastrand::Rng,
    number: usize,
    enough: u64,
    /// The most lines of a batch; 0: no batches.
    batch: usize,
    jobs: Vec<(String, usize)>,
    made: u64,
    requests: u64,
    dead: u32,
    /// The positions of its events in the history.
    mine: Vec<usize>,
    unanswered: Vec<usize>,
}

impl<'a> Submitter<'a> {
    pub(super) fn new(stage: &'a Stage, seed: u64, number: usize, batch: usize) -> Self {
        let random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64 + 1));
        let (mine, unanswered) = (Vec::new(), Vec::new());
        Self {
            stage,
            random,
            number,
            enough: ENOUGH_PENDING[usize::from(seed % 2 == 1)],
            batch,
            jobs: Vec::new(),
            made: 0,
            requests: 0,
            dead: u32::MAX,
            mine,
            unanswered,
        }
    }

    pub(super) fn run(mut self) {
        while let Some((process, api)) = self.stage.api(self.dead) {
            if self.stage.pending.load(Ordering::SeqCst) > self.enough {
                std::thread::park_timeout(PAUSE);
                continue;
            }
            let count = if self.batch > 0 { self.random.usize(1..=self.batch) } else { 1 };
            let events: Vec<_> = (0..count).map(|_| self.choose()).collect();
            self.hand_in(process, &api, &events);
        }
    }

    /// An event that was not answered, an older event again, or a new event.
    fn choose(&mut self) -> usize {
        // Most producers submit unanswered events again; some never do.
        while let Some(place) = self.unanswered.pop() {
            if self.random.u32(..4) > 0 {
                return place;
            }
        }
        if !self.mine.is_empty() && self.random.u32(..10) == 0 {
            let from = self.mine.len().saturating_sub(RECENT);
            let place = self.mine[self.random.usize(from..self.mine.len())];
            if self.stage.history.events.lock().unwrap()[place].idempotency.is_some() {
                return place;
            }
        }
        self.make()
    }

    fn make(&mut self) -> usize {
        self.made += 1;
        if self.jobs.len() < JOBS {
            let job = format!("s{}-{}", self.number, self.made);
            self.jobs.push((job, self.random.usize(1..=9)));
        }
        let at = self.random.usize(..self.jobs.len());
        let job = self.jobs[at].0.clone();
        self.jobs[at].1 -= 1;
        if self.jobs[at].1 == 0 {
            self.jobs.swap_remove(at);
        }
        let key = format!("s{}e{}", self.number, self.made);
        let idempotency = (self.random.u32(..10) > 0).then(|| format!("event-{key}"));
        let event = Event { key, job, idempotency, handed_in: Vec::new() };
        let mut events = self.stage.history.events.lock().unwrap();
        if self.stage.forgets && self.mine.len() >= RECENT {
            let place = self.mine[self.random.usize(..RECENT)];
            events[place] = event;
            return place;
        }
        events.push(event);
        self.mine.push(events.len() - 1);
        events.len() - 1
    }

    fn body(&self, place: usize) -> Value {
        let known = self.stage.history.events.lock().unwrap()[place].clone();
        body(&self.stage.receivers, &known)
    }

    fn hand_in(&mut self, process: u32, api: &Api, places: &[usize]) {
        self.requests += 1;
        let began = Instant::now();
        let lines: Vec<_> = places.iter().map(|place| self.body(*place).to_string()).collect();
        let sent: Vec<_> = places.iter().map(|_| self.stage.history.tick()).collect();
        let response = if self.batch > 0 {
            api.ask("POST", "/v1/events", "application/x-ndjson", &lines.join("\n"))
        } else {
            api.ask("POST", "/v1/events", "application/json", &lines[0])
        };
        let answered = self.stage.history.tick();
        let said = match &response {
            Some(response) if self.stage.refuses(process, response) => {
                self.dead = process;
                said_before_the_end(response, places.len())
            }
            Some(response) => {
                if !self.stage.forgets {
                    let acknowledged = Acknowledged { process, began };
                    self.stage.history.acknowledged.lock().unwrap().push(acknowledged);
                }
                said(response, places.len())
            }
            None => {
                self.dead = process;
                vec![Said::Nothing; places.len()]
            }
        };
        let mut events = self.stage.history.events.lock().unwrap();
        for ((place, sent), said) in places.iter().zip(sent).zip(said) {
            let event = &mut events[*place];
            if said == Said::Nothing && event.idempotency.is_some() {
                self.unanswered.push(*place);
            }
            if self.stage.forgets {
                // To save memory, only obvious errors are recorded.
                event.handed_in.clear();
                if matches!(said, Said::Wrong(_) | Said::Nothing) {
                    self.stage.history.fault(format!("{event:?}: {said:?}"));
                }
            }
            let request = self.requests;
            event.handed_in.push(HandedIn { sent, answered, request, said });
        }
    }
}

/// The event as it is submitted, identical each time.
pub(super) fn body(receivers: &Receivers, known: &Event) -> Value {
    let mut random = fastrand::Rng::with_seed(
        known.key.bytes().fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())),
    );
    // Half of a job's callbacks go to one place.
    let home = known.job.bytes().map(usize::from).sum::<usize>() % TEMPERS.len();
    let to = if random.bool() { home } else { random.usize(..TEMPERS.len()) };
    let name = ["job_sending", "job_finished"][random.usize(..2)];
    let mut body = event(name, &known.job, &receivers.url(to, &known.key));
    if random.u32(..100) == 0 {
        body["parameters"]["DpfControlCallbackUrl"] = format!("ftp://h/{}", known.key).into();
    }
    if let Some(event_id) = &known.idempotency {
        body["eventId"] = event_id.as_str().into();
    }
    body
}

/// The outcome of each event in an answer.
pub(super) fn said(response: &Response, count: usize) -> Vec<Said> {
    let lines = match response.status {
        200 if count > 1 || !response.body.starts_with(b"{\"outcome\"") => response.lines(),
        200 | 202 | 422 => vec![response.json()],
        _ => Vec::new(),
    };
    if lines.len() != count {
        let wrong = format!("{} {}", response.status, String::from_utf8_lossy(&response.body));
        return vec![Said::Wrong(wrong); count];
    }
    lines.iter().map(said_of_one).collect()
}

fn said_of_one(line: &Value) -> Said {
    let id = line["id"].as_str().unwrap_or_default().to_owned();
    match line["outcome"].as_str() {
        _ if id.is_empty() => Said::Wrong(line.to_string()),
        Some("accepted") => Said::Accepted(id),
        Some("duplicate") => Said::Duplicate(id),
        Some("failed") => Said::Failed(id),
        _ => Said::Wrong(line.to_string()),
    }
}

/// The same if the store has stopped: the first lines of a batch may have been stored.
fn said_before_the_end(response: &Response, count: usize) -> Vec<Said> {
    let mut said = vec![Said::Nothing; count];
    for line in response.json()["lines"].as_array().into_iter().flatten() {
        let place = line["line"].as_u64().and_then(|line| usize::try_from(line - 1).ok());
        if let Some(one) = place.and_then(|place| said.get_mut(place)) {
            *one = said_of_one(line);
        }
    }
    said
}
