//! The raw loop: the service's HTTP client with a fixed number of PUTs in flight, and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use http::{HeaderMap, HeaderValue, header};
use seal_dpf_urlcallback::{
    callback::{Destination, parse_url},
    delivery::send::clients::{Clients, Settings},
    egress::Policy,
};

use crate::{
    fill::{body, url},
    receiver::rate,
};

/// `<port> <destinations> <in flight> <count>`: prints PUTs a second.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let [port, destinations, in_flight, count] = args else { bail!("four numbers: {args:?}") };
    let (port, destinations) = (port.parse::<u16>()?, destinations.parse::<usize>()?);
    let (in_flight, count) = (in_flight.parse::<usize>()?, count.parse::<usize>()?);
    let settings = Settings {
        connect_timeout: Duration::from_secs(5),
        idle_per_destination: in_flight.div_ceil(destinations),
        ..Settings::default()
    };
    let clients = Arc::new(Clients::build(&settings, Arc::new(Policy::default()))?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let next = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..in_flight)
            .map(|task| {
                // One task sends to one destination, as connections are kept for one.
                let url = url(port, task % destinations, 0);
                tokio::spawn(put(Arc::clone(&clients), url, Arc::clone(&next), count))
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        anyhow::Ok(())
    })?;
    let micros = u64::try_from(begin.elapsed().as_micros())?;
    println!("{}", rate(count as u64, micros));
    Ok(())
}

async fn put(
    clients: Arc<Clients>,
    url: String,
    next: Arc<AtomicUsize>,
    count: usize,
) -> anyhow::Result<()> {
    let url = parse_url(&url).context("a URL")?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", HeaderValue::from_static("01KATAAAAAAAAAAAAAAAAAAAAA"));
    headers.insert("webhook-timestamp", 1_700_000_000.into());
    headers.insert("callback-attempt", 1.into());
    let body = bytes::Bytes::from(body(1, "1".into()).to_json());
    let client = clients.of(&url, &Destination::of(&url))?;
    while next.fetch_add(1, Relaxed) < count {
        let request = client.put(url.clone()).headers(headers.clone()).body(body.clone());
        let mut response = request.send().await?;
        ensure!(response.status().is_success(), "the receiver says {}", response.status());
        while response.chunk().await?.is_some() {}
    }
    Ok(())
}
