//! Liveness and readiness, determined on request.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::outbox::Outbox;

/// How long the delivery loop and the store may take to respond before they are regarded as stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// A liveness check of the delivery loop, which answers it.
pub type LoopCheck = oneshot::Sender<()>;

/// The state of a source of events other than HTTP. HTTP does not depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// In a word.
    pub state: SourceWord,
    /// Why it does not pull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a source does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceWord {
    /// It takes events.
    Pulling,
    /// It could, and another instance does.
    Standby,
    /// It cannot at the moment.
    Waiting,
}

impl SourceWord {
    /// Its name in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pulling => "pulling",
            Self::Standby => "standby",
            Self::Waiting => "waiting",
        }
    }
}

/// The health of a running service.
#[derive(Clone)]
pub struct Health {
    outbox: Arc<dyn Outbox>,
    delivery: mpsc::Sender<LoopCheck>,
    draining: Arc<AtomicBool>,
    nats: Arc<OnceLock<watch::Receiver<SourceState>>>,
}

impl Health {
    /// The health of the service on `outbox`, and the receiver of the delivery loop's checks.
    pub fn new(outbox: Arc<dyn Outbox>) -> (Self, mpsc::Receiver<LoopCheck>) {
        let (delivery, checks) = mpsc::channel(16);
        let health = Self { outbox, delivery, draining: Arc::default(), nats: Arc::default() };
        (health, checks)
    }

    /// Events come from NATS too, and this is what the source does. Only the first call counts.
    pub fn observe_nats(&self, state: watch::Receiver<SourceState>) {
        self.nats.get_or_init(|| state);
    }

    /// What the source of events from NATS does, if there is one.
    pub fn nats(&self) -> Option<SourceState> {
        self.nats.get().map(|state| state.borrow().clone())
    }

    /// The service is shutting down: no new events from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the service is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// `Err` with the reason if the store or the delivery loop makes no progress.
    pub async fn alive(&self) -> Result<(), String> {
        match self.store().await {
            // A full queue or disk stops events, but not the delivery of stored callbacks. A restart
            // would not bring back a store that cannot be reached.
            Ok(()) | Err(StoreTrouble { transient: true, .. }) => {}
            Err(trouble) => return Err(trouble.text),
        }
        if self.is_draining() {
            return Ok(());
        }
        let (check, answer) = oneshot::channel();
        let asked = async { self.delivery.send(check).await.is_ok() && answer.await.is_ok() };
        match timeout(PATIENCE, asked).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the delivery loop has ended".into()),
            Err(_) => Err("the delivery loop does not answer".into()),
        }
    }

    /// `Err` with the reason if no events are accepted.
    pub async fn ready(&self) -> Result<(), String> {
        if self.is_draining() {
            return Err("the service is shutting down".into());
        }
        self.store().await.map_err(|error| error.text)
    }

    /// The reason why the store does not respond.
    fn silence(&self) -> String {
        match self.outbox.write_in_progress() {
            Some(since) if since >= PATIENCE => format!(
                "waiting for the data disk: a write has been in progress for {} s",
                since.as_secs()
            ),
            _ => "the store does not answer".into(),
        }
    }

    async fn store(&self) -> Result<(), StoreTrouble> {
        match timeout(PATIENCE, self.outbox.ready()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(StoreTrouble { transient: error.is_transient(), text: error.to_string() })
            }
            Err(_) => Err(StoreTrouble { transient: false, text: self.silence() }),
        }
    }
}

struct StoreTrouble {
    transient: bool,
    text: String,
}
