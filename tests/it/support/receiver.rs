//! A receiver of callbacks on loopback that records requests and gives scripted responses.

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, Response, Uri},
};

use super::eventually;

/// A scripted response.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// With this status.
    Status(u16),
    /// With this status and these headers.
    With(u16, Vec<(&'static str, String)>),
    /// With this status and body.
    Body(u16, Vec<u8>),
    /// With this status, and the headers of the request as the body.
    Echo(u16),
    /// 200, when the gate is opened.
    Wait,
}

/// A recorded request.
#[derive(Debug, Clone)]
pub(crate) struct Put {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) at: Instant,
    /// Length of the watched file at that time.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "for tests with a traced disk")
    )]
    pub(crate) watched: u64,
}

impl Put {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn job_state(&self) -> String {
        self.json()["jobState"].as_str().unwrap().to_owned()
    }
}

#[derive(Default)]
struct Record {
    puts: Vec<Put>,
    answers: VecDeque<Answer>,
    connections: usize,
    at_once: usize,
    most_at_once: usize,
    watched: Option<PathBuf>,
}

struct Shared {
    record: Mutex<Record>,
    last: Answer,
    open: tokio::sync::watch::Sender<bool>,
}

/// The receiver. It ends when it is dropped.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Receiver {
    /// Answers 200 to everything.
    pub(crate) fn start() -> Self {
        Self::answering(Vec::new(), Answer::Status(200))
    }

    /// Responds with these in order, and then with `last`.
    pub(crate) fn answering(answers: Vec<Answer>, last: Answer) -> Self {
        Self::listening(TcpListener::bind("127.0.0.1:0").unwrap(), answers, last)
    }

    /// The same, on an existing listener.
    pub(crate) fn listening(listener: TcpListener, answers: Vec<Answer>, last: Answer) -> Self {
        let address = listener.local_addr().unwrap();
        let record = Record { answers: answers.into(), ..Record::default() };
        let open = tokio::sync::watch::channel(false).0;
        let shared = Arc::new(Shared { record: Mutex::new(record), last, open });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        std::thread::spawn({
            let (shared, ended) = (Arc::clone(&shared), Arc::clone(&ended));
            move || {
                serve(listener, shared, stopped);
                *ended.0.lock().unwrap() = true;
                ended.1.notify_all();
            }
        });
        Self { address, shared, stop: Some(stop), ended }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn puts(&self) -> Vec<Put> {
        self.shared.record.lock().unwrap().puts.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.record.lock().unwrap().puts.len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.record.lock().unwrap().connections
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.record.lock().unwrap().most_at_once
    }

    /// From now on, each request is recorded with the length of this file at that time.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "for tests with a traced disk")
    )]
    pub(crate) fn watch(&self, file: &Path) {
        self.shared.record.lock().unwrap().watched = Some(file.to_owned());
    }

    /// Answers all waiting requests.
    pub(crate) fn open(&self) {
        self.shared.open.send_replace(true);
    }

    /// Waits until this many requests have been received.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Put> {
        eventually(&format!("{count} requests"), || (self.count() >= count).then(|| self.puts()))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.open();
        drop(self.stop.take());
        let ended = self.ended.0.lock().unwrap();
        drop(self.ended.1.wait_while(ended, |ended| !*ended).unwrap());
    }
}

fn serve(listener: TcpListener, shared: Arc<Shared>, stopped: tokio::sync::oneshot::Receiver<()>) {
    use axum::serve::ListenerExt as _;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        listener.set_nonblocking(true).unwrap();
        let counted = Arc::clone(&shared);
        let listener = tokio::net::TcpListener::from_std(listener)
            .unwrap()
            .tap_io(move |_| counted.record.lock().unwrap().connections += 1);
        let router = Router::new().fallback(receive).with_state(shared);
        tokio::select! {
            result = axum::serve(listener, router).into_future() => result.unwrap(),
            _ = stopped => {}
        }
    });
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let answer = {
        let mut record = shared.record.lock().unwrap();
        let length = |file: &PathBuf| std::fs::metadata(file).map_or(0, |it| it.len());
        let watched = record.watched.as_ref().map_or(0, length);
        record.puts.push(Put {
            watched,
            method: method.to_string(),
            path: uri.to_string(),
            headers: headers.clone(),
            body: String::from_utf8(body.to_vec()).unwrap(),
            at: Instant::now(),
        });
        record.at_once += 1;
        record.most_at_once = record.most_at_once.max(record.at_once);
        record.answers.pop_front().unwrap_or_else(|| shared.last.clone())
    };
    let (status, headers, body) = match answer {
        Answer::Status(status) => (status, Vec::new(), Vec::new()),
        Answer::With(status, headers) => (status, headers, Vec::new()),
        Answer::Body(status, body) => (status, Vec::new(), body),
        Answer::Echo(status) => (status, Vec::new(), format!("{headers:?}").into_bytes()),
        Answer::Wait => {
            shared.open.subscribe().wait_for(|open| *open).await.unwrap();
            (200, Vec::new(), Vec::new())
        }
    };
    shared.record.lock().unwrap().at_once -= 1;
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body)).unwrap()
}
