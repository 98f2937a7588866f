//! `receive`: a receiver for experiments.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
};
use tokio::net::TcpListener;

use super::{
    output::{Exit, print, say},
    text,
};
use crate::callback::redact_url;

/// Receive callbacks and print them, for experiments
///
/// Bodies go to standard output, one per line; everything else goes to standard error.
///
/// Example: seal-dpf-urlcallback receive --answer 503,503,200
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Listen address; port 0 selects a free port
    #[arg(long, default_value = "127.0.0.1:9127")]
    listen: SocketAddr,
    /// Response statuses, in order; the last one is repeated
    #[arg(long, value_delimiter = ',', default_value = "200", value_parser = status)]
    answer: Vec<StatusCode>,
    /// Delay before each response
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    delay: Duration,
}

fn status(text: &str) -> Result<StatusCode, String> {
    match text.trim().parse() {
        Ok(code @ 200..=999) => StatusCode::from_u16(code).map_err(|error| error.to_string()),
        _ => Err("expected a status from 200 to 999".into()),
    }
}

struct Receiver {
    answers: Vec<StatusCode>,
    delay: Duration,
    received: AtomicUsize,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<Exit> {
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    say(format_args!("receiving on http://{}", listener.local_addr()?));
    let receiver = Arc::new(Receiver {
        answers: args.answer.clone(),
        delay: args.delay,
        received: AtomicUsize::new(0),
    });
    let router = Router::new().fallback(receive).with_state(receiver);
    let stop = async {
        // If Ctrl-C cannot be handled, run until killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    axum::serve(listener, router).with_graceful_shutdown(stop).await?;
    Ok(Exit::Done)
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let index = receiver.received.fetch_add(1, Ordering::SeqCst);
    let answer = receiver.answers.get(index).or(receiver.answers.last()).copied();
    let answer = answer.unwrap_or(StatusCode::OK);
    let header = |name: &str| {
        text::one_line(headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or("-"))
    };
    say(format_args!(
        "{method} {} webhook-id={} attempt={} -> {}",
        text::one_line(&redact_url(&uri.to_string())),
        header("webhook-id"),
        header("callback-attempt"),
        answer.as_u16()
    ));
    // Ignore a closed standard output.
    drop(print(text::one_line(&String::from_utf8_lossy(&body))));
    tokio::time::sleep(receiver.delay).await;
    answer
}
