//! The phase of an exchange before its request is sent, which determines the meaning of an error.
//!
//! The HTTP client does not report whether it reuses a connection, waits for a look-up or connects.
//! Therefore each exchange runs in the task-local scope of its own [`Progress`], which the connector's
//! [`layer`](ConnectLimit) and the resolver update.

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

/// Progress of an exchange.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU8>);

impl Progress {
    /// Runs an exchange, in which [`Progress::current`] returns this progress.
    pub async fn of<T>(&self, exchange: impl Future<Output = T>) -> T {
        PROGRESS.scope(self.clone(), exchange).await
    }

    /// The progress of the current exchange; outside of an exchange, a new one.
    pub fn current() -> Self {
        PROGRESS.try_with(Self::clone).unwrap_or_default()
    }

    fn set(&self, to: u8) {
        self.0.store(to, Ordering::Relaxed);
    }

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }

    /// The request is about to be sent.
    pub fn begins(&self) {
        self.set(POOLED);
    }

    /// The look-up waits for a slot.
    pub fn waits_for_place(&self) {
        self.set(WAITS);
    }

    /// The look-up has started.
    pub fn resolves(&self) {
        self.set(RESOLVES);
    }

    /// A connection is being established.
    pub fn connects(&self) {
        self.set(CONNECTS);
    }

    /// Whether the exchange uses a connection from the pool.
    pub fn is_pooled(&self) -> bool {
        self.is(POOLED)
    }

    /// Whether the exchange waits for its look-up to start.
    pub fn is_waiting(&self) -> bool {
        self.is(WAITS)
    }
}

/// A connection was not established in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} (connect_timeout)", humantime::format_duration(*.0))]
pub struct ConnectTimeout(Duration);

/// Limits the time for establishing a connection after its name is resolved: TCP, proxy and TLS.
#[derive(Debug, Clone, Copy)]
pub struct ConnectLimit(pub Duration);

impl<S> Layer<S> for ConnectLimit {
    type Service = LimitedConnector<S>;

    fn layer(&self, inner: S) -> LimitedConnector<S> {
        LimitedConnector { inner, limit: self.0 }
    }
}

/// A connector with a time limit.
#[derive(Debug, Clone)]
pub struct LimitedConnector<S> {
    inner: S,
    limit: Duration,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, R> Service<R> for LimitedConnector<S>
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
                // A look-up has its own limits.
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(10);

    /// Connects with a time limit, in a separate exchange.
    async fn connect<F>(connecting: impl Fn(Progress) -> F) -> Result<(), BoxError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let inner = tower::service_fn(|()| {
            let connecting = connecting(Progress::current());
            async {
                connecting.await;
                Ok::<_, BoxError>(())
            }
        });
        Progress::default().of(async { ConnectLimit(LIMIT).layer(inner).call(()).await }).await
    }

    #[tokio::test]
    async fn the_time_of_a_look_up_does_not_count_for_a_connection() {
        for phase in [WAITS, RESOLVES] {
            let connected = connect(|progress| async move {
                progress.set(phase);
                tokio::time::sleep(2 * LIMIT).await;
                progress.connects();
                tokio::task::yield_now().await;
            });
            assert!(connected.await.is_ok(), "{phase}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_limited_after_its_look_up() {
        let connected = connect(|progress| async move {
            progress.resolves();
            tokio::task::yield_now().await;
            progress.connects();
            std::future::pending::<()>().await;
        });
        assert!(connected.await.unwrap_err().is::<ConnectTimeout>());
    }
}
