//! A network between two programs, which can be slow, hang, or be interrupted.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::PAUSE;

/// Forwards connections to an address. Its threads end with the process.
pub(crate) struct Forwarder {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Delay of each piece of data, in milliseconds.
    delay: AtomicU64,
    /// Nothing is forwarded, and nothing is closed.
    hangs: AtomicBool,
    /// Data from the client is lost.
    mutes: AtomicBool,
    /// Requests pass, and answers are lost.
    swallows: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Forwarder {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                own.forward(stream, target);
            }
        });
        Self { address, shared }
    }

    /// Sets a delay of each answer.
    pub(crate) fn delay(&self, by: Duration) {
        self.shared.delay.store(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Sets whether data is held back, as with an unplugged cable.
    pub(crate) fn hang(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Discards data from the client from now on.
    pub(crate) fn mute(&self) {
        self.shared.mutes.store(true, Ordering::Relaxed);
    }

    /// Sets whether answers are lost while requests pass.
    pub(crate) fn swallow(&self, swallows: bool) {
        self.shared.swallows.store(swallows, Ordering::Relaxed);
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Shared {
    fn forward(self: &Arc<Self>, client: TcpStream, target: SocketAddr) {
        let Ok(server) = TcpStream::connect(target) else { return };
        for (from, to, is_answer) in [(&client, &server, false), (&server, &client, true)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.copy(from, to, is_answer));
        }
        self.streams.lock().unwrap().extend([client, server]);
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count) = from.read(&mut bytes)
            && count > 0
        {
            if is_answer {
                std::thread::sleep(Duration::from_millis(self.delay.load(Ordering::Relaxed)));
            }
            while self.hangs.load(Ordering::Relaxed) {
                std::thread::sleep(PAUSE);
            }
            let lost = if is_answer { &self.swallows } else { &self.mutes };
            if lost.load(Ordering::Relaxed) {
                continue;
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
    }
}
