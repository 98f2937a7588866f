//! Notifications between instances: NOTIFY, on a connection that also listens. They only reduce latency: polling
//! finds what a lost notification announced.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_postgres::types::ToSql;

use super::session::Connector;
use crate::outbox::ids::QueueKey;

/// How long notifications are collected. NOTIFY holds a lock of the whole database until it is committed.
const COLLECTED: Duration = Duration::from_millis(10);

/// Pause between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Maximum number of destinations or callbacks in one notification: PostgreSQL limits it to 8000 bytes.
const KEYS: usize = 400;

/// A notification to the owners of shards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Notification {
    /// Rows of this destination have changed.
    Changed(QueueKey),
    /// The callback with this seq is active.
    Active(i64),
    /// A question was asked or answered.
    Asked,
}

/// The ends of the channels to the task of the notifications.
pub(super) struct Notifications {
    pub(super) send: mpsc::UnboundedSender<Notification>,
    pub(super) receive: mpsc::UnboundedReceiver<Notification>,
}

/// Starts the task, which ends when both ends are dropped.
pub(super) fn start(connector: Arc<Connector>) -> Notifications {
    let (send, to_send) = mpsc::unbounded_channel();
    let (received, receive) = mpsc::unbounded_channel();
    tokio::spawn(run(connector, to_send, received));
    Notifications { send, receive }
}

async fn run(
    connector: Arc<Connector>,
    mut to_send: mpsc::UnboundedReceiver<Notification>,
    received: mpsc::UnboundedSender<Notification>,
) {
    while !received.is_closed() {
        exchange(&connector, &mut to_send, &received).await.unwrap_or_default();
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Exchanges notifications on one connection until it breaks.
async fn exchange(
    connector: &Connector,
    to_send: &mut mpsc::UnboundedReceiver<Notification>,
    received: &mpsc::UnboundedSender<Notification>,
) -> Option<()> {
    let (client, mut messages) = connector.listen().await.ok()?;
    let channel = connector.channel();
    client.batch_execute(&format!("LISTEN \"{channel}\"")).await.ok()?;
    loop {
        tokio::select! {
            message = messages.recv() => {
                let payload = message?;
                for notification in parse(&payload) {
                    received.send(notification).ok()?;
                }
            }
            notification = to_send.recv() => {
                let mut all = BTreeSet::from([notification?]);
                tokio::time::sleep(COLLECTED).await;
                while let Ok(more) = to_send.try_recv() {
                    all.insert(more);
                }
                for payload in payloads(&all) {
                    let args: [&(dyn ToSql + Sync); 2] = [&channel, &payload];
                    client.execute("SELECT pg_notify($1, $2)", &args).await.ok()?;
                }
            }
        }
    }
}

/// The notifications as text: `asked`; or `changed` or `active`, and the keys of queues or seqs in hexadecimal.
fn payloads(notifications: &BTreeSet<Notification>) -> Vec<String> {
    let keys = |kind: &str, of: fn(&Notification) -> Option<String>| -> Vec<String> {
        let all: Vec<_> = notifications.iter().filter_map(of).collect();
        all.chunks(KEYS).map(|some| format!("{kind} {}", some.join(" "))).collect()
    };
    let mut payloads = keys("changed", |notification| match notification {
        Notification::Changed(key) => Some(format!("{:x}", key.0)),
        _ => None,
    });
    payloads.extend(keys("active", |notification| match notification {
        Notification::Active(seq) => Some(format!("{seq:x}")),
        _ => None,
    }));
    if notifications.contains(&Notification::Asked) {
        payloads.push("asked".to_owned());
    }
    payloads
}

fn parse(payload: &str) -> Vec<Notification> {
    let mut words = payload.split(' ');
    let kind = words.next().unwrap_or_default();
    let notification = |word| match kind {
        "changed" => Some(Notification::Changed(QueueKey(u64::from_str_radix(word, 16).ok()?))),
        "active" => Some(Notification::Active(i64::from_str_radix(word, 16).ok()?)),
        _ => None,
    };
    match kind {
        "asked" => vec![Notification::Asked],
        _ => words.filter_map(notification).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_round_trip_and_respect_the_size_limit() {
        let keys = (0..1000).map(|key| Notification::Changed(QueueKey(u64::MAX - key)));
        let seqs = (0..1000).map(|seq| Notification::Active(i64::MAX - seq));
        let told: BTreeSet<_> = keys.chain(seqs).chain([Notification::Asked]).collect();
        let payloads = payloads(&told);
        assert!(payloads.iter().all(|it| it.len() < 8000));
        let heard: BTreeSet<_> = payloads.iter().flat_map(|it| parse(it)).collect();
        assert_eq!(heard, told);
        // Notifications of newer versions are ignored.
        assert!(parse("something else").is_empty());
    }
}
