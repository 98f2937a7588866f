//! The door of the API: connections, and how long strangers may stand in it.
//!
//! A connection that has not shown the token yet is a stranger's. Only so many of them are
//! held at a time, and each only for a while, whether it sends nothing, a header a second, or
//! asks for its health again and again. Where there are more, the one that has stood there the
//! longest goes: who has the token shows it at once. Who has shown it may stay.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// How many strangers are held at a time.
const STRANGERS: usize = 256;

/// How long a stranger may stay, TLS included.
const STRANGER_PATIENCE: Duration = Duration::from_secs(10);

/// How long a stranger's last answer may take after that.
const STRANGER_GRACE: Duration = Duration::from_secs(5);

/// How long the head of a request may be, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long nothing is accepted after the system could not accept: most likely it has no more
/// files, and needs a moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The strangers that stand in the door, in the order in which they came. To forget one tells
/// its connection to go.
#[derive(Default)]
struct Strangers {
    next: u64,
    here: BTreeMap<u64, oneshot::Sender<()>>,
}

/// Whose connection a request came over; the token makes a stranger known.
#[derive(Clone)]
pub(super) struct Visitor {
    number: u64,
    strangers: Arc<Mutex<Strangers>>,
}

impl Visitor {
    /// A stranger comes in; `gone` is told when it has to go, or that it is none any more.
    fn enter(strangers: &Arc<Mutex<Strangers>>) -> (Self, oneshot::Receiver<()>) {
        let (known, gone) = oneshot::channel();
        let mut all = lock(strangers);
        if all.here.len() >= STRANGERS {
            drop(all.here.pop_first());
        }
        let number = all.next;
        all.next += 1;
        all.here.insert(number, known);
        (Self { number, strangers: Arc::clone(strangers) }, gone)
    }

    /// The token was shown.
    pub(super) fn welcome(&self) {
        if let Some(known) = lock(&self.strangers).here.remove(&self.number) {
            // Its connection may have ended meanwhile.
            known.send(()).unwrap_or_default();
        }
    }
}

/// A connection has ended, whoever's it was.
struct Leaving(Visitor);

impl Drop for Leaving {
    fn drop(&mut self) {
        drop(lock(&self.0.strangers).here.remove(&self.0.number));
    }
}

fn lock(strangers: &Mutex<Strangers>) -> MutexGuard<'_, Strangers> {
    strangers.lock().unwrap_or_else(PoisonError::into_inner)
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
        let strangers = Arc::default();
        let mut connections = JoinSet::new();
        let mut end = self.end.clone();
        loop {
            let accepted = async {
                match listener.accept().await {
                    Ok((stream, _)) => Some(stream),
                    Err(error) => {
                        tracing::warn!(error.message = %error, "a connection cannot be accepted");
                        sleep(ACCEPT_PAUSE).await;
                        None
                    }
                }
            };
            tokio::select! {
                accepted = accepted => if let Some(stream) = accepted {
                    let (visitor, gone) = Visitor::enter(&strangers);
                    connections.spawn(self.clone().welcome(stream, visitor, gone));
                },
                Some(_) = connections.join_next() => {}
                () = ended(&mut end) => break,
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// Comes to an understanding about TLS, where the API speaks it, and serves the connection.
    async fn welcome(
        mut self,
        stream: TcpStream,
        visitor: Visitor,
        mut gone: oneshot::Receiver<()>,
    ) {
        let leaving = Leaving(visitor);
        let patience = Instant::now() + STRANGER_PATIENCE;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error.message = %error, "TCP_NODELAY cannot be set");
        }
        let Some(tls) = self.tls.as_ref().map(|tls| tls.load_full()) else {
            return self.connection(stream, &leaving.0, gone, patience).await;
        };
        let handshake = timeout_at(patience, TlsAcceptor::from(tls).accept(stream));
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            _ = &mut gone => return,
            () = ended(&mut self.end) => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.connection(stream, &leaving.0, gone, patience).await,
            Ok(Err(error)) => {
                tracing::debug!(error.message = %error, "no TLS with a client of the API");
            }
            Err(_) => tracing::debug!("a client of the API took too long for TLS"),
        }
    }

    async fn connection(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        visitor: &Visitor,
        mut gone: oneshot::Receiver<()>,
        patience: Instant,
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
        let mut patience = pin!(sleep_until(patience));
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
                shown = &mut gone, if !known => match shown {
                    Ok(()) => known = true,
                    // Others have come, and this one has stood there the longest.
                    Err(_) => return,
                },
                () = patience.as_mut(), if !known => {
                    if warned {
                        return;
                    }
                    warned = true;
                    connection.as_mut().graceful_shutdown();
                    patience.as_mut().reset(Instant::now() + STRANGER_GRACE);
                }
            }
        }
    }
}

async fn ended(end: &mut watch::Receiver<bool>) {
    // An error says that the service is gone: then it is over as well.
    drop(end.wait_for(|end| *end).await);
}
