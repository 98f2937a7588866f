//! Messages that can never become an event.

use async_nats::{
    HeaderMap, HeaderValue,
    jetstream::{Context, Message},
};
use tokio::time::timeout;

use super::{connection::PATIENCE, fault::Fault, settings::Settings};

/// The reason, the subject and the number of the message in its stream.
const REASON: &str = "Urlcallback-Reason";
const SUBJECT: &str = "Urlcallback-Subject";
const SEQUENCE: &str = "Urlcallback-Stream-Sequence";

/// A message, and why it can never become an event.
#[derive(Debug)]
pub(super) struct Poison {
    pub(super) message: Message,
    pub(super) reason: String,
    /// Identifies the message to the server, so that a letter that is sent twice is stored once.
    pub(super) id: String,
}

impl Poison {
    /// Publishes the letter, if a subject is configured, and terminates the message when the letter is
    /// stored.
    pub(super) async fn bury(&self, context: &Context, settings: &Settings) -> Result<(), Fault> {
        if let Some(subject) = settings.dead_letter_subject.clone() {
            let what = format!("dead letter to {subject} (nats.dead_letter_subject)");
            let (headers, payload) = (self.headers(), self.message.payload.clone());
            let stored = async {
                let published = context.publish_with_headers(subject, headers, payload).await?;
                published.await.map(drop)
            };
            match timeout(PATIENCE, stored).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Fault::request(what, error)),
                Err(error) => return Err(Fault::request(what, error)),
            }
        }
        let Some(reply) = self.message.reply.clone() else { return Ok(()) };
        let term = format!("+TERM {}", self.said());
        let client = context.client();
        let ended = async {
            client.publish(reply, term.into()).await.map_err(|error| error.to_string())?;
            client.flush().await.map_err(|error| error.to_string())
        };
        let what = "ending a message that cannot be used";
        match timeout(PATIENCE, ended).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Fault::request(what, error)),
            Err(error) => Err(Fault::request(what, error)),
        }
    }

    /// The message's own headers, except those that the server interprets, and the reason.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, values) in self.message.headers.iter().flat_map(HeaderMap::iter) {
            let text: &str = name.as_ref();
            if !text.to_ascii_lowercase().starts_with("nats-") {
                values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
            }
        }
        headers.insert("Nats-Msg-Id", self.id.as_str());
        headers.insert(REASON, HeaderValue::from(self.said()));
        headers.insert(SUBJECT, self.message.subject.as_str());
        if let Ok(info) = self.message.info() {
            headers.insert(SEQUENCE, HeaderValue::from(info.stream_sequence));
        }
        headers
    }

    /// The reason in one line.
    fn said(&self) -> String {
        self.reason.replace(|c: char| c.is_control(), " ")
    }
}
