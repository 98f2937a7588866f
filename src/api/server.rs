//! The API listener: connections, and limits on unauthenticated ones.
//!
//! A connection is unauthenticated until a request on it has a token. The number of such connections
//! and the lifetime of each are limited, whether it sends nothing, one header per second, or repeated
//! health checks. When the limit is exceeded, the oldest connection is closed, because clients with a
//! token send it immediately. Authenticated connections are not limited.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
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

/// Maximum number of unauthenticated connections.
const UNAUTHENTICATED: usize = 256;

/// Lifetime of an unauthenticated connection, TLS handshake included.
const UNAUTHENTICATED_LIFETIME: Duration = Duration::from_secs(10);

/// How much longer the last response may take.
const UNAUTHENTICATED_GRACE: Duration = Duration::from_secs(5);

/// Maximum size of a request head, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Pause after a failed `accept`: most likely the process has no free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The unauthenticated connections, oldest first. Removing a connection closes it.
#[derive(Default)]
struct Unauthenticated {
    next: u64,
    open: BTreeMap<u64, oneshot::Sender<()>>,
}

/// The connection of a request, which has it as an extension. A request with a token authenticates it.
#[derive(Clone)]
pub struct Peer {
    number: u64,
    address: SocketAddr,
    tls: bool,
    unauthenticated: Arc<Mutex<Unauthenticated>>,
}

impl Peer {
    /// A new connection. The receiver is notified when the connection must close or has been
    /// authenticated.
    fn enter(
        unauthenticated: &Arc<Mutex<Unauthenticated>>,
        address: SocketAddr,
        tls: bool,
    ) -> (Self, oneshot::Receiver<()>) {
        let (known, gone) = oneshot::channel();
        let mut all = lock(unauthenticated);
        if all.open.len() >= UNAUTHENTICATED {
            drop(all.open.pop_first());
        }
        let number = all.next;
        all.next += 1;
        all.open.insert(number, known);
        // A socket for both families shows IPv4 clients as mapped.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        (Self { number, address, tls, unauthenticated: Arc::clone(unauthenticated) }, gone)
    }

    /// The client's address as accepted; an IPv4-mapped IPv6 address as IPv4.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the connection is private: it uses TLS, or does not leave this machine.
    pub fn is_private(&self) -> bool {
        self.tls || self.address.ip().is_loopback()
    }

    /// A request with a token was received.
    pub fn authenticate(&self) {
        if let Some(known) = lock(&self.unauthenticated).open.remove(&self.number) {
            // The connection may have ended.
            known.send(()).unwrap_or_default();
        }
    }
}

/// Removes a connection when it has ended.
struct Closing(Peer);

impl Drop for Closing {
    fn drop(&mut self) {
        drop(lock(&self.0.unauthenticated).open.remove(&self.0.number));
    }
}

fn lock(unauthenticated: &Mutex<Unauthenticated>) -> MutexGuard<'_, Unauthenticated> {
    unauthenticated.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The TLS configuration of the API. It can be replaced while the service runs.
pub type Tls = Arc<ArcSwap<ServerConfig>>;

/// The API listener. `idle_timeout` applies between two requests and to each request head.
#[derive(Clone)]
pub struct Listener {
    /// The router.
    pub router: Router,
    /// TLS configuration; `None` for plain HTTP.
    pub tls: Option<Tls>,
    /// The idle time-out.
    pub idle_timeout: Duration,
    /// Becomes `true` when the listener must close.
    pub end: watch::Receiver<bool>,
}

impl Listener {
    /// Serves until it must close, and then until the requests in progress are answered.
    pub async fn serve(self, listener: TcpListener) {
        let unauthenticated = Arc::default();
        let mut connections = JoinSet::new();
        let mut end = self.end.clone();
        loop {
            let accepted = async {
                match listener.accept().await {
                    Ok(accepted) => Some(accepted),
                    Err(error) => {
                        tracing::warn!(error.message = %error, "a connection cannot be accepted");
                        sleep(ACCEPT_PAUSE).await;
                        None
                    }
                }
            };
            tokio::select! {
                accepted = accepted => if let Some((stream, address)) = accepted {
                    let tls = self.tls.is_some();
                    let (peer, gone) = Peer::enter(&unauthenticated, address, tls);
                    connections.spawn(self.clone().accept(stream, peer, gone));
                },
                Some(_) = connections.join_next() => {}
                () = ended(&mut end) => break,
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// Performs the TLS handshake if TLS is configured, and serves the connection.
    async fn accept(mut self, stream: TcpStream, peer: Peer, mut gone: oneshot::Receiver<()>) {
        let closing = Closing(peer);
        let deadline = Instant::now() + UNAUTHENTICATED_LIFETIME;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error.message = %error, "TCP_NODELAY cannot be set");
        }
        let Some(tls) = self.tls.as_ref().map(|tls| tls.load_full()) else {
            return self.connection(stream, &closing.0, gone, deadline).await;
        };
        let handshake = timeout_at(deadline, TlsAcceptor::from(tls).accept(stream));
        let handshaken = tokio::select! {
            result = handshake => result,
            _ = &mut gone => return,
            () = ended(&mut self.end) => return,
        };
        match handshaken {
            Ok(Ok(stream)) => self.connection(stream, &closing.0, gone, deadline).await,
            Ok(Err(error)) => {
                tracing::debug!(error.message = %error, "the TLS handshake with a client of the API failed");
            }
            Err(_) => tracing::debug!("the TLS handshake with a client of the API timed out"),
        }
    }

    async fn connection(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: &Peer,
        mut gone: oneshot::Receiver<()>,
        deadline: Instant,
    ) {
        let Self { router, idle_timeout, mut end, .. } = self;
        let service = service_fn({
            let peer = peer.clone();
            move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer.clone());
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
        let mut deadline = pin!(sleep_until(deadline));
        let (mut known, mut ending, mut warned) = (false, false, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error.message = %error, "a connection to the API failed");
                    }
                    return;
                }
                () = ended(&mut end), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                authenticated = &mut gone, if !known => match authenticated {
                    Ok(()) => known = true,
                    // Too many connections, and this is the oldest.
                    Err(_) => return,
                },
                () = deadline.as_mut(), if !known => {
                    if warned {
                        return;
                    }
                    warned = true;
                    connection.as_mut().graceful_shutdown();
                    deadline.as_mut().reset(Instant::now() + UNAUTHENTICATED_GRACE);
                }
            }
        }
    }
}

async fn ended(end: &mut watch::Receiver<bool>) {
    // An error means that the sender was dropped, which also ends the listener.
    drop(end.wait_for(|end| *end).await);
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn enter(all: &Arc<Mutex<Unauthenticated>>) -> (Peer, oneshot::Receiver<()>) {
        Peer::enter(all, SocketAddr::from(([127, 0, 0, 1], 50_000)), false)
    }

    #[test]
    fn a_mapped_address_is_that_of_ipv4() {
        for (accepted, shown, local) in [
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7", false),
            ("192.0.2.1:7", "192.0.2.1:7", false),
            ("[2001:db8::1]:7", "[2001:db8::1]:7", false),
            ("[::ffff:127.0.0.1]:7", "127.0.0.1:7", true),
            ("[::1]:7", "[::1]:7", true),
        ] {
            let accept = |tls| Peer::enter(&Arc::default(), accepted.parse().unwrap(), tls).0;
            let (plain, encrypted) = (accept(false), accept(true));
            assert_eq!(plain.address().to_string(), shown);
            assert_eq!((plain.is_private(), encrypted.is_private()), (local, true), "{accepted}");
        }
    }

    #[test]
    fn the_oldest_unauthenticated_connection_is_closed_if_there_are_too_many() {
        let all = Arc::default();
        let mut connections: Vec<_> = (0..UNAUTHENTICATED).map(|_| enter(&all)).collect();
        let is_open =
            |gone: &mut oneshot::Receiver<()>| gone.try_recv() == Err(TryRecvError::Empty);
        assert!(connections.iter_mut().all(|(_, gone)| is_open(gone)));
        let (_new, mut new) = enter(&all);
        let open = connections.iter_mut().map(|(_, gone)| is_open(gone));
        assert_eq!(open.collect::<Vec<_>>(), [&[false][..], &[true; UNAUTHENTICATED - 1]].concat());
        assert!(is_open(&mut new));
    }

    #[test]
    fn unauthenticated_connections_that_have_ended_do_not_count() {
        let all = Arc::default();
        let (_first, mut first) = enter(&all);
        for _ in 0..2 * UNAUTHENTICATED {
            drop(Closing(enter(&all).0));
        }
        assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
    }
}
