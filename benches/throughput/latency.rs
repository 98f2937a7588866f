//! The latency of one event: until it is accepted, and until it is received.

use crate::{
    clock::Latency,
    receiver::rate,
    service::{Service, disk_sync},
    stage::{Events, Receiver, produce},
    table::{Figures, ms},
};

/// Measures it at fixed rates, and for one producer that submits one event after the other.
pub(crate) fn run(figures: &mut Figures) -> anyhow::Result<()> {
    let mut receiver = Receiver::start()?;
    let mut service = Service::prepare()?;
    service.start()?;
    let port = receiver.port;
    // The first requests open connections.
    let first = Events { port, destinations: 50, connections: 8, count: 200, rate: 100, lines: 0 };
    produce(&service, first)?;
    for (rate, connections, of, target) in [
        (100, 8, "100 events a second", "p99 ≤ +5 ms"),
        (300, 1, "300 events a second over one connection", "p50 ≤ +0.6 ms"),
    ] {
        let count = 20 * rate;
        receiver.report()?;
        let before = disk_sync(service.folder())?;
        let events = Events { connections, count, rate, ..first };
        let accepted = produce(&service, events)?.latency;
        receiver.wait_for(count as u64)?;
        let came = receiver.report()?.latency;
        let after = disk_sync(service.folder())?;
        let mean = |a: u32, b: u32| a.midpoint(b);
        let sync = Latency { p50: mean(before.p50, after.p50), p99: mean(before.p99, after.p99) };
        let both = |of: &Latency| format!("{} / {}", ms(of.p50), ms(of.p99));
        let over = |all: u32, sync: u32| (f64::from(all) - f64::from(sync)) / 1e3;
        figures.plain("the disk's own sync, p50 / p99", both(&sync), "");
        figures.add(
            &format!("{of}, accepted: p50 / p99"),
            both(&accepted),
            format!(
                "{:+.1} / {:+.1} ms over the sync's",
                over(accepted.p50, sync.p50),
                over(accepted.p99, sync.p99)
            ),
            target,
        );
        figures.plain(&format!("{of}, at the receiver: p50 / p99"), both(&came), "");
    }
    let alone = produce(&service, Events { connections: 1, count: 5_000, rate: 0, ..first })?;
    figures.add(
        "one producer, one event after the other",
        format!("{:.0}/s", rate(alone.accepted, alone.micros)),
        format!("p50 / p99 {} / {}", ms(alone.latency.p50), ms(alone.latency.p99)),
        "",
    );
    service.stop()
}
