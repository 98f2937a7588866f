//! The parts of the measurement.

use std::{thread, time::Duration};

use anyhow::{Context as _, bail};

use crate::{
    clock::{Latency, now_micros},
    fill::directory,
    http::get,
    kills, latency, nats, page, postgres,
    receiver::rate,
    service::Service,
    stage::{DEAD, Events, Receiver, all_delivered, beside, fill, produce},
    table::{Figures, mib, ms},
};

type Part = fn(&mut Figures) -> anyhow::Result<()>;

const PARTS: [(&str, Part); 14] = [
    ("drain", drain),
    ("intake", intake),
    ("steady", steady),
    ("latency", latency::run),
    ("kills", kills::run),
    ("growth", growth),
    ("search", search),
    ("page", page::run),
    ("isolation", isolation),
    ("idle", idle),
    ("nats", nats::run),
    ("postgres", postgres::run),
    ("postgres-scaling", postgres::scaling),
    ("postgres-snapshot", postgres::snapshot),
];

/// Measures the parts of these names, or all.
pub(crate) fn run(wanted: &[&str]) -> anyhow::Result<()> {
    if let Some(unknown) = wanted.iter().find(|name| PARTS.iter().all(|(known, _)| known != *name))
    {
        bail!("no part is called {unknown}; there are {}", PARTS.map(|(name, _)| name).join(", "));
    }
    let mut figures = Figures::default();
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.contains(&name) {
            part(&mut figures)?;
        }
    }
    figures.print();
    Ok(())
}

/// Results of draining a backlog.
struct Drained {
    rate: f64,
    to_first: u64,
    resident: u64,
    highest: u64,
}

/// Starts the service with its backlog and measures until `count` PUTs have been received.
fn drained(
    service: &mut Service,
    receiver: &mut Receiver,
    count: usize,
) -> anyhow::Result<Drained> {
    let begin = now_micros();
    service.start()?;
    receiver.wait_for(1)?;
    receiver.wait_for(count as u64)?;
    let usage = service.usage()?;
    let seen = receiver.report()?;
    Ok(Drained {
        rate: seen.rate(),
        to_first: seen.first.saturating_sub(begin),
        resident: usage.resident,
        highest: usage.highest,
    })
}

fn drain(figures: &mut Figures) -> anyhow::Result<()> {
    const COUNT: usize = 200_000;
    for (destinations, target) in [(1, "≥ 0.65"), (50, "≥ 0.6")] {
        let mut receiver = Receiver::start()?;
        let mut service = Service::prepare()?;
        fill(&service, None, &[(0, receiver.port, destinations, COUNT)])?;
        let (drained, raw) = beside(&mut receiver, destinations, |receiver| {
            let drained = drained(&mut service, receiver, COUNT)?;
            all_delivered(&service, COUNT)?;
            service.stop()?;
            Ok(drained)
        })?;
        let what = format!("drain of {COUNT}, {destinations} destination(s)");
        figures.rate(&what, drained.rate, raw, target);
    }
    Ok(())
}

fn intake(figures: &mut Figures) -> anyhow::Result<()> {
    for (delivering, name) in [(false, "not delivering"), (true, "while delivering")] {
        for (lines, connections, count, kind, target) in
            [(0, 64, 100_000, "single events", 0.37), (1000, 4, 200_000, "NDJSON", 1.0)]
        {
            let mut receiver = Receiver::start()?;
            let port = if delivering { receiver.port } else { DEAD };
            let events = Events { port, destinations: 1, connections, count, rate: 0, lines };
            let mut service = Service::prepare()?;
            let (report, raw) = beside(&mut receiver, 1, |_| {
                service.start()?;
                let report = produce(&service, events)?;
                service.stop()?;
                Ok(report)
            })?;
            let what = format!("intake of {kind}, {name}");
            let target = if delivering { String::new() } else { format!("≥ {target}") };
            figures.rate(&what, rate(report.accepted, report.micros), raw, &target);
        }
    }
    Ok(())
}

/// Whether at this rate 99 % are delivered within 100 ms of their acceptance.
fn holds(receiver: &mut Receiver, rate: usize) -> anyhow::Result<bool> {
    const SECONDS: usize = 5;
    let count = rate * SECONDS;
    let mut service = Service::prepare()?;
    service.start()?;
    let events =
        Events { port: receiver.port, destinations: 50, connections: 64, count, rate, lines: 0 };
    let report = produce(&service, events)?;
    all_delivered(&service, count)?;
    let quick = service.metric("urlcallback_accept_to_delivered_seconds_bucket{le=\"0.1\"}")?;
    let all = service.metric("urlcallback_accept_to_delivered_seconds_count")?;
    service.stop()?;
    receiver.report()?;
    // The measurement is valid only if the producer kept its rate.
    let kept = crate::receiver::rate(report.accepted, report.micros);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let wanted = rate as f64;
    Ok(quick >= 0.99 * all && kept >= 0.97 * wanted)
}

fn steady(figures: &mut Figures) -> anyhow::Result<()> {
    let mut receiver = Receiver::start()?;
    let (held, raw) = beside(&mut receiver, 50, |receiver| {
        let (mut held, mut step) = (0, 2_000);
        while step >= 500 {
            if holds(receiver, held + step)? {
                held += step;
            } else {
                step /= 2;
            }
        }
        Ok(held)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    figures.rate("steady: the highest rate with p99 ≤ 100 ms", held as f64, raw, "≥ 0.35");
    Ok(())
}

/// Ratios to the raw loop are compared, because the machine's speed varies.
fn growth(figures: &mut Figures) -> anyhow::Result<()> {
    // The same number is drained from each backlog, so that all are measured over the same time.
    const DRAINED: usize = 200_000;
    let mut first_ratio = None;
    for (backlog, name) in [
        (10_000, "10,000"),
        (100_000, "100,000"),
        (1_000_000, "1 million"),
        (5_000_000, "5 million"),
    ] {
        let mut receiver = Receiver::start()?;
        // A small backlog is drained several times, and the best one counts.
        let rounds = if backlog == 10_000 { 5 } else { 1 };
        let (all, raw) = beside(&mut receiver, 1, |receiver| {
            let mut all = Vec::new();
            for _ in 0..rounds {
                let mut service = Service::prepare()?;
                fill(&service, None, &[(0, receiver.port, 1, backlog)])?;
                let store = service.store_bytes()?;
                let drained = drained(&mut service, receiver, DRAINED.min(backlog))?;
                all.push((drained, store));
            }
            Ok(all)
        })?;
        let mut rates: Vec<_> = all.iter().map(|(drained, _)| drained.rate).collect();
        rates.sort_by(f64::total_cmp);
        let rate = rates[rates.len() / 2];
        let ratio = rate / raw;
        let first = *first_ratio.get_or_insert(ratio);
        let (drained, store) = &all[0];
        figures.rate(&format!("{name} pending: drain"), rate, raw, "");
        let (growth, memory, start) = match backlog {
            1_000_000 => ("≥ 0.85", "≤ 200 MB", "≤ 1.5 s"),
            5_000_000 => ("", "≤ 250 MB", ""),
            _ => ("", "", ""),
        };
        figures.add(
            &format!("{name} pending: drain beside 10,000"),
            String::new(),
            format!("{:.2}", ratio / first),
            growth,
        );
        figures.plain(
            &format!("{name} pending: memory, now / at its highest"),
            format!("{} / {}", mib(drained.resident), mib(drained.highest)),
            memory,
        );
        figures.plain(&format!("{name} pending: store"), mib(store >> 10), "");
        figures.plain(
            &format!("{name} pending: from start to first PUT"),
            format!("{:.2} s", Duration::from_micros(drained.to_first).as_secs_f64()),
            start,
        );
    }
    Ok(())
}

/// Look-ups among a million pending callbacks, through the API.
fn search(figures: &mut Figures) -> anyhow::Result<()> {
    const BACKLOG: usize = 1_000_000;
    const LOOK_UPS: usize = 200;
    let mut service = Service::prepare()?;
    fill(&service, None, &[(0, DEAD, 50, BACKLOG)])?;
    service.start()?;
    let (address, token) = service.api()?;
    let ask = |path: String| -> anyhow::Result<(String, u32)> {
        let begin = now_micros();
        let text = get(&address, &token, &path)?;
        Ok((text, u32::try_from(now_micros() - begin).unwrap_or(u32::MAX)))
    };
    let mut ids = Vec::new();
    for name in ["job", "directory", "id"] {
        let mut all = Vec::with_capacity(LOOK_UPS);
        for at in 0..LOOK_UPS {
            let job = at * (BACKLOG / LOOK_UPS) + at;
            let path = match name {
                "job" => format!("/v1/callbacks?jobId={job}"),
                "directory" => format!("/v1/callbacks?jobIdFs={}", directory(job)),
                _ => format!("/v1/callbacks/{}", ids[at]),
            };
            let (text, took) = ask(path)?;
            let id = text.split(r#""id":""#).nth(1).and_then(|rest| rest.split('"').next());
            ids.push(id.with_context(|| format!("job {job} is not found"))?.to_owned());
            all.push(took);
        }
        let Latency { p50, p99 } = Latency::of(all);
        figures.plain(
            &format!("1 million pending: a callback by its {name}, p50 / p99"),
            format!("{} / {}", ms(p50), ms(p99)),
            "≤ 50 ms",
        );
    }
    service.stop()
}

fn isolation(figures: &mut Figures) -> anyhow::Result<()> {
    const GOOD: usize = 200_000;
    const BAD: usize = 100_000;
    let mut undisturbed = None;
    for name in
        ["undisturbed", "beside a black hole with 100,000", "beside 10,000 dead destinations"]
    {
        let mut receiver = Receiver::start()?;
        let mut service = Service::prepare()?;
        let good = (0, receiver.port, 50, GOOD);
        // The undeliverable callbacks are older, so they would be sent first.
        match name {
            "undisturbed" => fill(&service, None, &[good])?,
            _ if name.contains("hole") => {
                fill(&service, None, &[(GOOD, receiver.hole, 1, BAD), good])?;
            }
            _ => fill(&service, None, &[(GOOD, DEAD, 10_000, BAD), good])?,
        }
        let ((drained, latency), raw) = beside(&mut receiver, 50, |receiver| {
            let drained = drained(&mut service, receiver, GOOD)?;
            let port = receiver.port;
            let events = Events {
                port,
                destinations: 50,
                connections: 64,
                count: 5_000,
                rate: 1_000,
                lines: 0,
            };
            produce(&service, events)?;
            receiver.wait_for(5_000)?;
            let latency = receiver.report()?.latency;
            service.stop()?;
            Ok((drained, latency))
        })?;
        let ratio = drained.rate / raw;
        let first = *undisturbed.get_or_insert(ratio);
        figures.rate(&format!("good destinations {name}: drain"), drained.rate, raw, "");
        if name != "undisturbed" {
            figures.add(
                &format!("good destinations {name}, beside undisturbed"),
                String::new(),
                format!("{:.2}", ratio / first),
                "≥ 0.9",
            );
        }
        figures.plain(
            &format!("good destinations {name}: 1,000/s to the receiver, p50 / p99"),
            format!("{} / {}", ms(latency.p50), ms(latency.p99)),
            "",
        );
    }
    Ok(())
}

fn idle(figures: &mut Figures) -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_secs(60);
    let mut service = Service::prepare()?;
    service.start()?;
    // Work left over from the start ends soon.
    thread::sleep(Duration::from_secs(5));
    let before = service.usage()?;
    thread::sleep(PAUSE);
    let after = service.usage()?;
    let cpu = after.cpu.saturating_sub(before.cpu);
    figures.add(
        "idle: processor time in a minute",
        format!("{} ms", cpu.as_millis()),
        format!("{:.3} % of a core", 100.0 * cpu.as_secs_f64() / PAUSE.as_secs_f64()),
        "< 0.1 %",
    );
    figures.plain("idle: memory", mib(after.resident), "");
    figures.plain("idle: wake-ups in a minute", (after.wakeups - before.wakeups).to_string(), "");
    service.stop()
}
