//! The producer: submits single events over keep-alive connections, as fast as they are accepted or at
//! a fixed rate, or in batches.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;

use crate::{
    clock::{Latency, now_micros},
    fill::url,
    http::Connection,
};

/// The results of the producer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) accepted: u64,
    pub(crate) micros: u64,
    /// From the request to its answer, that is, until the event is durable.
    pub(crate) latency: Latency,
}

/// The load: the service with its token, the receivers, and the number and rate of events.
#[derive(Clone)]
struct Plan {
    address: String,
    token: String,
    port: u16,
    destinations: usize,
    connections: usize,
    count: usize,
    /// Events per second; 0 is as fast as they are accepted.
    rate: usize,
    /// Number of lines in a batch; 0 is single events.
    lines: usize,
}

/// `<address> <token> <port> <destinations> <connections> <count> <rate> <lines>`
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let [address, token, port, numbers @ ..] = args else { bail!("more: {args:?}") };
    let numbers: Vec<usize> = numbers.iter().map(|it| it.parse()).collect::<Result<_, _>>()?;
    let &[destinations, connections, count, rate, lines] = numbers.as_slice() else {
        bail!("five numbers at the end: {args:?}")
    };
    let (address, token) = ((*address).to_owned(), (*token).to_owned());
    let port = port.parse()?;
    let plan = Plan { address, token, port, destinations, connections, count, rate, lines };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = LocalSet::new().block_on(&runtime, produce(plan))?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn produce(plan: Plan) -> anyhow::Result<Report> {
    let plan = Rc::new(plan);
    let next = Rc::new(Cell::new(0));
    // Each run uses its own job ids.
    let salt = usize::try_from(now_micros() % 1_000_000_000)? * 10_000_000;
    let kind = if plan.lines > 0 { "application/x-ndjson" } else { "application/json" };
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        connections.push(Connection::open(&plan.address, &plan.token, kind).await?);
    }
    let begin = Instant::now();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|connection| {
            let (plan, next) = (Rc::clone(&plan), Rc::clone(&next));
            tokio::task::spawn_local(send(plan, connection, next, begin, salt))
        })
        .collect();
    let mut latencies = Vec::new();
    let mut accepted = 0;
    for task in tasks {
        let (count, mut seen) = task.await??;
        accepted += count;
        latencies.append(&mut seen);
    }
    let micros = u64::try_from(begin.elapsed().as_micros())?;
    ensure!(accepted == plan.count, "{accepted} of {} were accepted", plan.count);
    Ok(Report { accepted: accepted as u64, micros, latency: Latency::of(latencies) })
}

async fn send(
    plan: Rc<Plan>,
    mut connection: Connection,
    next: Rc<Cell<usize>>,
    begin: Instant,
    salt: usize,
) -> anyhow::Result<(usize, Vec<u32>)> {
    let mut latencies = Vec::new();
    let mut accepted = 0;
    let step = plan.lines.max(1);
    loop {
        let from = next.get();
        if from >= plan.count {
            return Ok((accepted, latencies));
        }
        let jobs = from..(from + step).min(plan.count);
        next.set(jobs.end);
        // If all connections are busy, the delay counts from the scheduled time of the event.
        let mut sent = Instant::now();
        if plan.rate > 0 {
            let planned =
                begin + Duration::from_secs(1) * u32::try_from(from)? / u32::try_from(plan.rate)?;
            if planned > sent {
                tokio::time::sleep_until(planned.into()).await;
                sent = Instant::now();
            } else {
                sent = planned;
            }
        }
        let made = now_micros() - u64::try_from(sent.elapsed().as_micros())?;
        let mut body = String::with_capacity(512 * jobs.len());
        for job in jobs {
            let url = url(plan.port, job % plan.destinations, job);
            event(&mut body, salt + job, made, &url);
        }
        accepted += connection.post(body.as_bytes()).await?;
        latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

/// One event in JSON, with a line end.
pub(crate) fn event(text: &mut String, job: usize, made: u64, url: &str) {
    text.push_str(r#"{"event":"job_finished","jobId":""#);
    text.push_str(&job.to_string());
    text.push_str(r#"","jobIdFs":""#);
    text.push_str(&made.to_string());
    text.push_str(
        r#"","exitStatus":"OK","dpfTrackerUrl":"http://dpfsrv03:9125/cgi-bin/dpftracker?job="#,
    );
    text.push_str(&job.to_string());
    text.push_str(r#"","parameters":{"DpfControlCallbackUrl":""#);
    text.push_str(url);
    text.push_str("\"}}\n");
}
