//! The operator's page among a million pending callbacks and 10,000 destinations.

use std::{thread, time::Duration};

use anyhow::{Context as _, ensure};
use data_encoding::BASE64;

use crate::{
    clock::{Latency, now_micros},
    fill::directory,
    http::get_as,
    service::Service,
    stage::fill,
    table::{Figures, ms},
};

const BACKLOG: usize = 1_000_000;
const DESTINATIONS: usize = 10_000;
const ROUNDS: usize = 50;

/// A port on which nothing listens.
const CLOSED: u16 = 1;

/// Measures the time and size of each view's response.
pub(crate) fn run(figures: &mut Figures) -> anyhow::Result<()> {
    let mut service = Service::prepare()?;
    fill(&service, None, &[(0, CLOSED, DESTINATIONS, BACKLOG)])?;
    service.start()?;
    let (address, token) = service.api()?;
    let basic = format!("Basic {}", BASE64.encode(format!("bench:{token}").as_bytes()));
    let ask = |path: &str| get_as(&address, &basic, path);
    let begin = now_micros();
    ask("/ui/")?;
    figures.plain(
        "1 million pending, 10,000 destinations: page, overview, at once after the start",
        ms(u32::try_from(now_micros() - begin).unwrap_or(u32::MAX)),
        "",
    );
    // The first attempts at all destinations are over.
    thread::sleep(Duration::from_secs(5));
    let list = ask("/ui/callbacks")?;
    let id = list.split("name=\"id\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
    let one = format!("/ui/callbacks/{}", id.context("a callback is listed")?);
    let found = format!("/ui/callbacks?jobIdFs={}", directory(BACKLOG / 2));
    for (name, path) in [
        ("overview", "/ui/"),
        ("callbacks", "/ui/callbacks"),
        ("callbacks that wait", "/ui/callbacks?state=waiting"),
        ("callbacks of one directory", &found),
        ("one callback", &one),
        ("destinations", "/ui/destinations"),
        ("destinations with a host", "/ui/destinations?host=127.0.9"),
    ] {
        let mut all = Vec::with_capacity(ROUNDS);
        let mut bytes = 0;
        for _ in 0..ROUNDS {
            let begin = now_micros();
            let text = ask(path)?;
            all.push(u32::try_from(now_micros() - begin).unwrap_or(u32::MAX));
            ensure!(text.contains("</html>"), "{path} is not whole");
            bytes = text.len();
        }
        let Latency { p50, p99 } = Latency::of(all);
        figures.add(
            &format!("1 million pending, 10,000 destinations: page, {name}, p50 / p99"),
            format!("{} / {}", ms(p50), ms(p99)),
            format!("{bytes} bytes"),
            "≤ 100 ms",
        );
    }
    service.stop()
}
