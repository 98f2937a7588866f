//! One line for each event of `tracing`: JSON with the fields of the Elastic Common Schema.

use std::{fmt, io::Write as _};

use serde::{Serialize, Serializer};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::{Layer, layer::Context};

use super::actions::{self, Class};
use crate::clock::{Clock as _, SystemClock};

/// Fields with several values, which are separated by [`SEPARATOR`] in the event, as `tracing` has no lists.
const LISTS: [&str; 2] = ["settings.changed", "settings.restart"];

/// Separates the values of a field of [`LISTS`].
pub(crate) const SEPARATOR: &str = ", ";

/// Writes each event as one line of JSON with ECS field names.
pub(super) struct EcsLayer {
    writer: NonBlocking,
}

impl EcsLayer {
    pub(super) fn new(writer: NonBlocking) -> Self {
        Self { writer }
    }
}

impl<S: Subscriber> Layer<S> for EcsLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::new(event.metadata().target());
        event.record(&mut fields);
        let line = line(event.metadata(), &fields);
        // The writer's thread ends only when the process ends.
        drop(self.writer.clone().write_all(&line));
    }
}

fn line(metadata: &tracing::Metadata<'_>, fields: &Fields) -> Vec<u8> {
    let level = match *metadata.level() {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    };
    let message = if fields.message.is_empty() { b"\"\"" } else { &*fields.message };
    let mut line = begin(level, message, fields.json.len());
    if !fields.has_action {
        put(&mut line, "log.logger", metadata.target());
    }
    put_class(&mut line, fields.class);
    line.extend_from_slice(&fields.json);
    line.extend_from_slice(b"}\n");
    line
}

/// A line of the log about itself, which cannot go through `tracing`.
pub(super) fn own_line(action: &str, message: &str, error: &std::io::Error) -> Vec<u8> {
    let mut shown = Vec::new();
    put_value(&mut shown, message);
    let mut line = begin("error", &shown, 0);
    put_class(&mut line, actions::class_of(action));
    put(&mut line, "event.action", action);
    put(&mut line, "error.message", error.to_string());
    line.extend_from_slice(b"}\n");
    line
}

/// The beginning of every line: the first four fields in the order that ECS recommends. `more` bytes will
/// follow.
fn begin(level: &str, message: &[u8], more: usize) -> Vec<u8> {
    let mut line = Vec::with_capacity(512 + message.len() + more);
    let header =
        write!(line, r#"{{"@timestamp":"{}","log.level":"{level}","message":"#, SystemClock.now());
    line.extend_from_slice(message);
    let service = write!(
        line,
        r#","ecs.version":"8.11.0","service.name":"seal-dpf-urlcallback","service.version":"{}","process.pid":{},"event.dataset":"seal-dpf-urlcallback.log""#,
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
    );
    debug_assert!(header.is_ok() && service.is_ok(), "writing to a Vec does not fail");
    line
}

fn put_class(line: &mut Vec<u8>, class: Option<&Class>) {
    if let Some(class) = class {
        put(line, "event.kind", "event");
        // ECS requires arrays for these two.
        put(line, "event.category", [class.category]);
        put(line, "event.type", [class.r#type]);
    }
}

/// The fields of one event as JSON, each preceded by a comma; the message separately, because it is
/// written first.
struct Fields {
    message: Vec<u8>,
    json: Vec<u8>,
    has_action: bool,
    class: Option<&'static Class>,
    /// Whether another crate logged the event. Its field names may be those of objects in ECS.
    foreign: bool,
}

impl Fields {
    fn new(target: &str) -> Self {
        let foreign = !target.starts_with(env!("CARGO_CRATE_NAME"));
        // Room for all fields of a callback's line, so that the buffer seldom grows.
        Self {
            message: Vec::new(),
            json: Vec::with_capacity(1024),
            has_action: false,
            class: None,
            foreign,
        }
    }

    fn put(&mut self, field: &Field, value: impl Serialize) {
        match field.name() {
            "message" => put_value(&mut self.message, value),
            "error" if self.foreign => put(&mut self.json, "error.message", value),
            name if self.foreign => {
                let name = format!("labels.{}", name.replace('.', "_"));
                // The values of labels are strings.
                let value = serde_json::to_value(value).unwrap_or_default();
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                put(&mut self.json, &name, text);
            }
            name => {
                self.has_action |= name == "event.action";
                put(&mut self.json, name, value);
            }
        }
    }
}

fn put(json: &mut Vec<u8>, name: &str, value: impl Serialize) {
    // Names are literals in the code that need no escaping.
    json.extend_from_slice(b",\"");
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":");
    put_value(json, value);
}

fn put_value(json: &mut Vec<u8>, value: impl Serialize) {
    let written = serde_json::to_writer(json, &value);
    debug_assert!(written.is_ok(), "writing to a Vec does not fail, and these values are all JSON");
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event.action" {
            self.class = actions::class_of(value);
            debug_assert!(self.class.is_some(), "{value} has no class");
        }
        if LISTS.contains(&field.name()) {
            let all = value.split(SEPARATOR).filter(|one| !one.is_empty());
            self.put(field, all.collect::<Vec<_>>());
        } else {
            self.put(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Shown(value));
    }
}

/// The `Debug` output of a value, as a string.
struct Shown<'a>(&'a dyn fmt::Debug);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:?}", self.0))
    }
}
