//! A receiver with minimal overhead: it accepts PUTs at every loopback address, answers 200, and records when
//! each arrived and how long after the creation of its event. In addition a black hole, which accepts
//! connections and never responds.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead as _, Write as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::clock::{Latency, now_micros};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Counters since the last reset.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) count: u64,
    /// Of the first and the last PUT, in microseconds since 1970.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// From the creation of the event to the PUT.
    pub(crate) latency: Latency,
}

impl Report {
    /// PUTs a second between the first and the last one.
    pub(crate) fn rate(&self) -> f64 {
        rate(self.count.saturating_sub(1), self.last.saturating_sub(self.first))
    }
}

/// Converts a count and a duration in microseconds to a rate per second.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more than its first digits")]
pub(crate) fn rate(count: u64, micros: u64) -> f64 {
    count as f64 * 1e6 / micros.max(1) as f64
}

/// The jobs that were received, and the number of repeats.
#[derive(Debug, Serialize)]
struct Jobs {
    distinct: usize,
    repeats: usize,
}

#[derive(Default)]
struct Seen {
    count: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    latencies: Vec<u32>,
    /// The jobs in order of arrival. They are counted only on request.
    jobs: Vec<u64>,
}

impl Seen {
    fn note(&self, made: Option<u64>, job: Option<u64>) {
        let now = now_micros();
        if self.count.fetch_add(1, Relaxed) == 0 {
            self.first.store(now, Relaxed);
        }
        self.last.store(now, Relaxed);
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made {
            notes.latencies.push(u32::try_from(now.saturating_sub(made)).unwrap_or(u32::MAX));
        }
        notes.jobs.extend(job);
    }

    fn take(&self) -> Report {
        let notes = std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner));
        Report {
            count: self.count.swap(0, Relaxed),
            first: self.first.swap(0, Relaxed),
            last: self.last.swap(0, Relaxed),
            latency: Latency::of(notes.latencies),
        }
    }

    /// Writes the jobs to a file, each once and on a separate line.
    fn write_jobs(&self, path: &str) -> anyhow::Result<Jobs> {
        let jobs = self.notes.lock().unwrap_or_else(PoisonError::into_inner).jobs.clone();
        let distinct: HashSet<u64> = jobs.iter().copied().collect();
        let mut text = String::with_capacity(distinct.len() * 20);
        for job in &distinct {
            text.push_str(&job.to_string());
            text.push('\n');
        }
        fs::write(path, text)?;
        Ok(Jobs { distinct: distinct.len(), repeats: jobs.len() - distinct.len() })
    }
}

/// Serves until its input ends. The commands on the input are `count`, `jobs <file>` and `report`, which also
/// resets.
pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = Arc::new(Seen::default());
    runtime.block_on(async {
        let listener = TcpListener::bind("0.0.0.0:0").await?;
        let hole = TcpListener::bind("127.0.0.1:0").await?;
        println!("{} {}", listener.local_addr()?.port(), hole.local_addr()?.port());
        let counted = Arc::clone(&seen);
        let asked = tokio::task::spawn_blocking(move || answer(&counted));
        tokio::spawn(swallow(hole));
        let serve = async {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::spawn(serve(stream, Arc::clone(&seen)));
            }
            #[expect(unreachable_code, reason = "says which error the loop ends with")]
            anyhow::Ok(())
        };
        tokio::select! {
            served = serve => served,
            ended = asked => ended?,
        }
    })
}

fn answer(seen: &Seen) -> anyhow::Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            Some(("jobs", path)) => {
                println!("{}", serde_json::to_string(&seen.write_jobs(path)?)?);
            }
            _ if line == "count" => println!("{}", seen.count.load(Relaxed)),
            _ => println!("{}", serde_json::to_string(&seen.take())?),
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

async fn swallow(hole: TcpListener) {
    let mut held = Vec::new();
    while let Ok((stream, _)) = hole.accept().await {
        held.push(stream);
        // The service closes them after its time-out.
        if held.len() > 4096 {
            held.drain(..1024);
        }
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Seen>) -> anyhow::Result<()> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let end = loop {
            if let Some(end) = request_end(&bytes)? {
                break end;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        seen.note(made(&bytes[..end]), job(&bytes[..end]));
        let close = find(&bytes[..end], b"connection: close").is_some();
        bytes.drain(..end);
        stream.write_all(ANSWER).await?;
        if close {
            return Ok(());
        }
    }
}

/// The end of the first request, if it is complete.
fn request_end(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(head) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let key = b"content-length: ";
    let at = find(&bytes[..head], key).context("a request without a length")? + key.len();
    let digits = bytes[at..head].iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    let end = head + 4 + length;
    Ok((bytes.len() >= end).then_some(end))
}

/// The creation time that is stored in the event.
fn made(request: &[u8]) -> Option<u64> {
    number(request, br#""jobIdFs":""#)
}

/// The job, if its id is a number.
fn job(request: &[u8]) -> Option<u64> {
    number(request, br#""jobId":""#)
}

fn number(request: &[u8], key: &[u8]) -> Option<u64> {
    let digits = &request[find(request, key)? + key.len()..];
    let end = digits.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
