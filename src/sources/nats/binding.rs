//! The consumer from which events are pulled. It must exist and be configured as the rules of this module
//! require.

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    consumer::{AckPolicy, PullConsumer, pull::Config},
    stream::{self, RetentionPolicy},
};

use super::{fault::Fault, settings::Settings, subjects};

/// How long a request for messages waits at the server.
pub(super) const PULL: Duration = Duration::from_secs(10);

/// With a shorter `ack_wait`, events would be redelivered while they are being stored.
const SHORTEST_ACK_WAIT: Duration = Duration::from_secs(10);

/// The consumer, and facts about it and its stream.
pub(super) struct Binding {
    pub(super) consumer: PullConsumer,
    /// Distinguishes the messages of this stream from those of an earlier stream with the same name.
    pub(super) stream: String,
    pub(super) ack_wait: Duration,
    pub(super) ack_pending: usize,
    pub(super) behind: u64,
    pub(super) expires: Duration,
}

/// Finds the consumer and checks it.
pub(super) async fn bind(context: &Context, settings: &Settings) -> Result<Binding, Fault> {
    let name = &settings.stream;
    let stream = context.get_stream(name).await;
    let stream =
        stream.map_err(|error| Fault::request(format!("stream {name} (nats.stream)"), error))?;
    let info = stream.cached_info();
    let found = context.get_consumer_from_stream(&settings.consumer, name).await;
    let consumer: PullConsumer = match found {
        Ok(consumer) => consumer,
        Err(error) if settings.create_consumer && is_missing(&error) => {
            let created = context.create_consumer_on_stream(wanted(settings), name).await;
            created.map_err(|error| request(settings, "cannot be created", error))?
        }
        Err(error) if is_missing(&error) => {
            return Err(Fault::NoConsumer(settings.consumer.clone()));
        }
        Err(error) => return Err(request(settings, "cannot be used", error)),
    };
    let known = consumer.cached_info();
    check_consumer(&known.config, settings)?;
    check_stream(&info.config, &known.config, settings)?;
    let longest = known.config.max_expires;
    Ok(Binding {
        stream: format!("{}-{name}", info.created.unix_timestamp_nanos()),
        ack_wait: known.config.ack_wait,
        ack_pending: known.num_ack_pending,
        behind: known.num_pending,
        expires: if longest.is_zero() { PULL } else { PULL.min(longest) },
        consumer,
    })
}

type ConsumerError = async_nats::jetstream::stream::ConsumerError;

fn is_missing(error: &ConsumerError) -> bool {
    use async_nats::jetstream::{ErrorCode, stream::ConsumerErrorKind};
    matches!(error.kind(), ConsumerErrorKind::JetStream(it) if it.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

fn request(settings: &Settings, what: &str, error: impl std::fmt::Display) -> Fault {
    Fault::request(format!("consumer {} (nats.consumer) {what}", settings.consumer), error)
}

/// The consumer that is created.
fn wanted(settings: &Settings) -> Config {
    Config {
        durable_name: Some(settings.consumer.clone()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.ack_wait,
        max_deliver: -1,
        max_ack_pending: i64::try_from(4 * settings.batch).unwrap_or(i64::MAX),
        filter_subjects: settings.filter_subjects.clone(),
        ..Config::default()
    }
}

fn check_consumer(
    found: &async_nats::jetstream::consumer::Config,
    settings: &Settings,
) -> Result<(), Fault> {
    let batch = i64::try_from(settings.batch).unwrap_or(i64::MAX);
    let mut wrong = Vec::new();
    let mut check = |fits: bool, what: String| {
        if !fits {
            wrong.push(what);
        }
    };
    check(found.durable_name.is_some(), "it is not durable".into());
    check(found.ack_policy == AckPolicy::Explicit, "its ack policy has to be explicit".into());
    check(
        found.max_deliver == -1,
        format!("max_deliver is {} and has to be -1", found.max_deliver),
    );
    check(
        found.ack_wait >= SHORTEST_ACK_WAIT,
        format!("ack_wait is {:?} and has to be at least 10s", found.ack_wait),
    );
    check(found.backoff.is_empty(), "it has a backoff, which replaces ack_wait".into());
    let enough = |limit: i64| limit <= 0 || limit >= batch;
    check(
        enough(found.max_ack_pending),
        format!(
            "max_ack_pending is {} and has to be at least nats.batch, which is {batch}",
            found.max_ack_pending
        ),
    );
    check(
        enough(found.max_batch),
        format!(
            "max_batch is {} and has to be at least nats.batch, which is {batch}",
            found.max_batch
        ),
    );
    check(!found.headers_only, "it delivers headers only".into());
    let mut filters = filters(found);
    let mut set = settings.filter_subjects.clone();
    filters.sort();
    set.sort();
    check(
        set.is_empty() || set == filters,
        format!("its filter subjects are {filters:?} and nats.filter_subjects is {set:?}"),
    );
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Fault::Unsuitable(format!(
        "consumer {} (nats.consumer) cannot be used: {}",
        settings.consumer,
        wrong.join("; ")
    )))
}

fn filters(consumer: &async_nats::jetstream::consumer::Config) -> Vec<String> {
    let one = (!consumer.filter_subject.is_empty()).then(|| consumer.filter_subject.clone());
    one.into_iter().chain(consumer.filter_subjects.iter().cloned()).collect()
}

fn check_stream(
    stream: &stream::Config,
    consumer: &async_nats::jetstream::consumer::Config,
    settings: &Settings,
) -> Result<(), Fault> {
    let name = &settings.stream;
    let Some(letters) = &settings.dead_letter_subject else {
        if stream.retention == RetentionPolicy::Limits {
            return Ok(());
        }
        return Err(Fault::Unsuitable(format!(
            "stream {name} (nats.stream) deletes what is terminated, because its retention is {}: set \
             nats.dead_letter_subject, so that no event is lost",
            match stream.retention {
                RetentionPolicy::WorkQueue => "work queue",
                _ => "interest",
            }
        )));
    };
    let filters = filters(consumer);
    let pulled = if filters.is_empty() { &stream.subjects } else { &filters };
    if pulled.iter().any(|pattern| subjects::matches(pattern, letters)) {
        return Err(Fault::Unsuitable(format!(
            "nats.dead_letter_subject is {letters}, which consumer {} would pull again",
            settings.consumer
        )));
    }
    Ok(())
}
