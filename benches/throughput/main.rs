//! `cargo bench --bench throughput`: the service, compared with the *raw loop*: the same HTTP client with as
//! many requests in flight, no outbox, the same receiver.
//!
//! Every part is a separate process: the receiver, the raw loop, the producer, and the service, which is the
//! real binary with its default settings and its store on the project's disk. Figures of different runs are
//! not comparable; their ratios to the raw loop of the same run are.
//!
//! `cargo bench --bench throughput -- drain idle` runs only these parts.

mod clock;
mod fill;
mod http;
mod kills;
mod latency;
mod nats;
mod page;
mod parts;
mod postgres;
mod producer;
mod raw;
mod receiver;
mod service;
mod stage;
mod table;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    // Ignore cargo's own argument.
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["as", "receiver"] => receiver::run(),
        ["as", "raw", rest @ ..] => raw::run(rest),
        ["as", "producer", rest @ ..] => producer::run(rest),
        ["as", "fill", rest @ ..] => fill::run(rest),
        ["as", ..] => bail!("no such role: {args:?}"),
        wanted => parts::run(wanted),
    }
}
