//! The door of the API: connections, and how long strangers may stand in it.
//!
//! A connection that has not shown the token yet is a stranger's. Only so many of them are
//! held at a time, and each only for a while, whether it sends nothing, a header a second, or
//! asks for its health again and again. Who has shown the token may stay.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// How many strangers are let in at a time; more wait in the system's queue.
const STRANGERS: usize = 256;

/// How long a stranger may stay.
const STRANGER_PATIENCE: Duration = Duration::from_secs(10);

/// How long a stranger's last answer may take after that.
const STRANGER_GRACE: Duration = Duration::from_secs(5);

/// How long the head of a request may be, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long nothing is accepted after the system could not accept: most likely it has no more
/// files, and needs a moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whose connection a request came over; the token makes a stranger known.
#[derive(Debug, Clone)]
pub(super) struct Visitor(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Visitor {
    fn stranger(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(Mutex::new(Some(permit))))
    }

    /// The token was shown. Another stranger may come in.
    pub(super) fn welcome(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn is_stranger(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// What the API speaks TLS with. It can be replaced while the service runs.
pub type Tls = Arc<ArcSwap<ServerConfig>>;

/// The door. A connection may rest for `idle_timeout` between two requests, and take as long for
/// the head of one.
#[derive(Clone)]
pub struct Door {
    /// What answers.
    pub router: Router,
    /// What it speaks TLS with; without, it speaks plain HTTP.
    pub tls: Option<Tls>,
    /// How long nothing may come.
    pub idle_timeout: Duration,
    /// `true` when it is to be closed.
    pub end: watch::Receiver<bool>,
}

impl Door {
    /// Serves until it is to be closed, and then until the requests under way are answered.
    pub async fn serve(self, listener: TcpListener) {
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        let mut connections = JoinSet::new();
        let mut end = self.end.clone();
        loop {
            let accepted = async {
                // The semaphore is never closed.
                let permit = Arc::clone(&strangers).acquire_owned().await.ok()?;
                match listener.accept().await {
                    Ok((stream, _)) => Some((permit, stream)),
                    Err(error) => {
                        tracing::warn!(error.message = %error, "a connection cannot be accepted");
                        sleep(ACCEPT_PAUSE).await;
                        None
                    }
                }
            };
            tokio::select! {
                accepted = accepted => if let Some((permit, stream)) = accepted {
                    connections.spawn(self.clone().welcome(stream, Visitor::stranger(permit)));
                },
                Some(_) = connections.join_next() => {}
                () = ended(&mut end) => break,
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// Comes to an understanding about TLS, where the API speaks it, and serves the connection.
    async fn welcome(mut self, stream: TcpStream, visitor: Visitor) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error.message = %error, "TCP_NODELAY cannot be set");
        }
        let Some(tls) = self.tls.as_ref().map(|tls| tls.load_full()) else {
            return self.connection(stream, visitor).await;
        };
        let handshake = timeout(STRANGER_PATIENCE, TlsAcceptor::from(tls).accept(stream));
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            () = ended(&mut self.end) => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.connection(stream, visitor).await,
            Ok(Err(error)) => {
                tracing::debug!(error.message = %error, "no TLS with a client of the API");
            }
            Err(_) => tracing::debug!("a client of the API took too long for TLS"),
        }
    }

    async fn connection(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        visitor: Visitor,
    ) {
        let Self { router, idle_timeout, mut end, .. } = self;
        let service = service_fn({
            let visitor = visitor.clone();
            move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(visitor.clone());
                router.clone().oneshot(request.map(Body::new))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(idle_timeout)
            .max_buf_size(MAX_HEAD_BYTES);
        builder.http2().timer(TokioTimer::new()).keep_alive_interval(idle_timeout);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut patience = pin!(sleep(STRANGER_PATIENCE));
        let (mut known, mut ending, mut warned) = (false, false, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error.message = %error, "a connection to the API broke off");
                    }
                    return;
                }
                () = ended(&mut end), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = patience.as_mut(), if !known => {
                    if !visitor.is_stranger() {
                        known = true;
                        continue;
                    }
                    if warned {
                        return;
                    }
                    warned = true;
                    connection.as_mut().graceful_shutdown();
                    patience.as_mut().reset(tokio::time::Instant::now() + STRANGER_GRACE);
                }
            }
        }
    }
}

async fn ended(end: &mut watch::Receiver<bool>) {
    // An error says that the service is gone: then it is over as well.
    drop(end.wait_for(|end| *end).await);
}
