//! How far an exchange has come on its way to a connection: what an error means depends on it.
//!
//! The HTTP client does not say whether it used a connection that was there, waits for a look-up or
//! connects. So each exchange runs within the scope of its own [`Progress`], which the parts of the
//! client that are ours, the connector's [`layer`](Limited) and the resolver, bring up to date.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower::{Layer, Service};

use crate::measure;

tokio::task_local! {
    static PROGRESS: Progress;
}

const POOLED: u8 = 0;
const WAITS: u8 = 1;
const RESOLVES: u8 = 2;
const CONNECTS: u8 = 3;

/// How far an exchange has come.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU8>);

impl Progress {
    /// Runs an exchange, which is then the one that [`Progress::current`] gives.
    pub async fn of<T>(&self, exchange: impl Future<Output = T>) -> T {
        PROGRESS.scope(self.clone(), exchange).await
    }

    /// The one of the exchange in whose task this is called; one of nobody elsewhere.
    pub fn current() -> Self {
        PROGRESS.try_with(Self::clone).unwrap_or_default()
    }

    fn set(&self, to: u8) {
        self.0.store(to, Ordering::Relaxed);
    }

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }

    /// What came before has needed no connection.
    pub fn begins(&self) {
        self.set(POOLED);
    }

    /// A look-up waits for its place.
    pub fn waits_for_place(&self) {
        self.set(WAITS);
    }

    /// A look-up is under way.
    pub fn resolves(&self) {
        self.set(RESOLVES);
    }

    /// A connection is made.
    pub fn connects(&self) {
        self.set(CONNECTS);
    }

    /// Whether no connection was begun for it, so that it used one that was there.
    pub fn is_pooled(&self) -> bool {
        self.is(POOLED)
    }

    /// Whether it only waits for its look-up to begin.
    pub fn is_waiting(&self) -> bool {
        self.is(WAITS)
    }
}

/// No connection came about in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} (delivery.connect_timeout)", humantime::format_duration(*.0))]
pub struct ConnectTimeout(Duration);

/// Bounds how long a connection may take to come about, once its name is resolved: TCP, the proxy
/// and TLS.
#[derive(Debug, Clone, Copy)]
pub struct Limited(pub Duration);

impl<S> Layer<S> for Limited {
    type Service = LimitedService<S>;

    fn layer(&self, inner: S) -> LimitedService<S> {
        LimitedService { inner, limit: self.0 }
    }
}

/// What makes connections, bounded.
#[derive(Debug, Clone)]
pub struct LimitedService<S> {
    inner: S,
    limit: Duration,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, R> Service<R> for LimitedService<S>
where
    S: Service<R, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        measure::connecting();
        let progress = Progress::current();
        progress.connects();
        let mut connecting = Box::pin(self.inner.call(request));
        let limit = self.limit;
        let mut since = None;
        let mut over = Box::pin(tokio::time::sleep(limit));
        Box::pin(std::future::poll_fn(move |cx| {
            if let Poll::Ready(done) = connecting.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            if progress.is(WAITS) || progress.is(RESOLVES) {
                // A look-up has limits of its own.
                since = None;
                return Poll::Pending;
            }
            let end = *since.get_or_insert_with(Instant::now) + limit;
            if over.deadline() != end {
                over.as_mut().reset(end);
            }
            over.as_mut().poll(cx).map(|()| Err(ConnectTimeout(limit).into()))
        }))
    }
}
