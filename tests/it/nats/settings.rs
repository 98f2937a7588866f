//! Settings of NATS, and checks of the consumer.

use std::time::Duration;

use async_nats::jetstream::{consumer::AckPolicy, stream};

use super::wait_for;
use crate::support::{
    Service,
    nats::{Server, consumer},
    run_in,
};

/// The standard output of `check-config`, or its standard error if it fails.
fn checked(text: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), text).unwrap();
    std::fs::write(folder.path().join("secret"), "geheim").unwrap();
    let output = run_in(folder.path(), &["check-config"], b"");
    let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    assert!(!out.contains("geheim") && !err.contains("geheim"), "{out}{err}");
    if output.status.success() { Ok(out) } else { Err(err) }
}

#[test]
fn settings_that_cannot_work_are_refused_with_their_key() {
    const BASE: &str = "servers = [\"nats://127.0.0.1:1\"]\nstream = \"S\"\nconsumer = \"C\"\n";
    for (text, key, says) in [
        ("stream = \"S\"", "nats.stream", "also requires nats.servers"),
        ("servers = [\"nats://h\"]\nconsumer = \"C\"", "nats.servers", "also requires nats.stream"),
        ("servers = [\"http://h\"]\nstream = \"S\"\nconsumer = \"C\"", "nats.servers", "URLs"),
        (
            "servers = [\"nats://u:geheim@h\"]\nstream = \"S\"\nconsumer = \"C\"",
            "nats.servers",
            "belong in nats.user",
        ),
        ("servers = [\"nats://h\"]\nstream = \"a.b\"\nconsumer = \"C\"", "nats.stream", "name"),
        (&format!("{BASE}batch = 0"), "nats.batch", "1 to 1000"),
        (&format!("{BASE}batch = 1001"), "nats.batch", "1 to 1000"),
        (&format!("{BASE}ack_wait = \"9s\""), "nats.ack_wait", "at least 10s"),
        (&format!("{BASE}filter_subjects = [\"a..b\"]"), "nats.filter_subjects", "empty part"),
        (&format!("{BASE}dead_letter_subject = \"a.*\""), "nats.dead_letter_subject", "wildcard"),
        (&format!("{BASE}outcome_subject = \"a.>\""), "nats.outcome_subject", "wildcard"),
        (&format!("{BASE}outcome_subject = \"a/b\""), "nats.outcome_subject", "letters, digits"),
        ("outcome_subject = \"a\"", "nats.outcome_subject", "also requires nats.servers"),
        (&format!("{BASE}events = {{ \"a.>\" = \"job_gone\" }}"), "nats.events", "job_sending"),
        (&format!("{BASE}events = {{ \"a.>.b\" = \"job_sending\" }}"), "nats.events", "has >"),
        (&format!("{BASE}user = \"u\""), "nats.user", "also requires nats.password_file"),
        (&format!("{BASE}password_file = \"secret\""), "nats.password_file", "nats.user"),
        (&format!("{BASE}token_file = \"none\""), "nats.token_file", "cannot use none"),
        (&format!("{BASE}nkey_file = \"secret\""), "nats.nkey_file", "begins with SU"),
        (&format!("{BASE}credentials_file = \"secret\""), "nats.credentials_file", "JWT"),
        (
            &format!("{BASE}token_file = \"secret\"\nuser = \"u\"\npassword_file = \"secret\""),
            "nats.password_file",
            "cannot be combined with nats.token_file",
        ),
        (&format!("{BASE}client_cert_file = \"secret\""), "nats.client_cert_file", "also requires"),
        (&format!("{BASE}ca_file = \"secret\""), "nats.ca_file", "no certificate"),
    ] {
        let said = checked(&format!("[nats]\n{text}\n")).expect_err(text);
        assert!(said.contains(key) && said.contains(says), "{text}: {said}");
    }
    // The settings are valid, but no server listens.
    let said = checked(&format!("[nats]\n{BASE}")).unwrap_err();
    assert!(said.contains("not connected to nats://127.0.0.1:1"), "{said}");
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn an_unsuitable_consumer_is_reported_with_the_reason() {
    let server = Server::start();
    let fits = || consumer();
    for (wrong, says) in [
        (
            {
                let mut it = fits();
                it.ack_policy = AckPolicy::All;
                it
            },
            "its ack policy has to be explicit",
        ),
        (
            {
                let mut it = fits();
                it.max_deliver = 5;
                it
            },
            "max_deliver is 5 and has to be -1",
        ),
        (
            {
                let mut it = fits();
                it.ack_wait = Duration::from_secs(9);
                it
            },
            "ack_wait is 9s and has to be at least 10s",
        ),
        (
            {
                let mut it = fits();
                it.max_ack_pending = 499;
                it
            },
            "max_ack_pending is 499 and has to be at least nats.batch, which is 500",
        ),
        (
            {
                let mut it = fits();
                it.max_batch = 10;
                it
            },
            "max_batch is 10",
        ),
        (
            {
                let mut it = fits();
                it.headers_only = true;
                it
            },
            "headers only",
        ),
        (
            {
                let mut it = fits();
                it.filter_subject = "jobs.other".into();
                it
            },
            "its filter subjects are [\"jobs.other\"] and nats.filter_subjects is [\"jobs.new\"]",
        ),
    ] {
        server.prepare_with(stream::Config::default(), wrong);
        let filter = if says.contains("filter") { "filter_subjects = [\"jobs.new\"]" } else { "" };
        let said = checked(&server.toml(filter)).expect_err(says);
        assert!(said.contains("consumer callbacks") && said.contains(says), "{says}: {said}");
        server.run(async |context| context.delete_stream("JOBS").await.unwrap());
    }
    let said = checked(&server.toml("")).unwrap_err();
    assert!(said.contains("stream JOBS (nats.stream)"), "{said}");
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn a_stream_that_deletes_what_is_terminated_requires_a_dead_letter_subject() {
    let server = Server::start();
    let retention = stream::RetentionPolicy::WorkQueue;
    server.prepare_with(stream::Config { retention, ..stream::Config::default() }, consumer());
    let said = checked(&server.toml("")).unwrap_err();
    assert!(said.contains("its retention is work queue: set nats.dead_letter_subject"), "{said}");
    let service = Service::start(&server.toml(""));
    wait_for(&service, "waiting", "set nats.dead_letter_subject");
    server.publish([super::numbered(1)]);
    assert_eq!(server.left(), (1, 0), "nothing is pulled");
    let said = checked(&server.toml("dead_letter_subject = \"jobs.dead\"")).unwrap_err();
    assert!(said.contains("which consumer callbacks would pull again"), "{said}");
    checked(&server.toml("dead_letter_subject = \"dead.jobs\"")).unwrap();
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn a_consumer_is_created_if_configured() {
    let server = Server::start();
    server.prepare();
    server.run(async |context| {
        context.delete_consumer_from_stream("callbacks", "JOBS").await.unwrap();
    });
    let settings = "create_consumer = true\nack_wait = \"40s\"\nfilter_subjects = [\"jobs.new\"]";
    for _ in 0..2 {
        let said = checked(&server.toml(settings)).unwrap();
        assert!(said.contains("does not exist and will be created"), "it changes nothing: {said}");
    }
    let service = super::pulling(&server, settings);
    server.publish([super::numbered(1)]);
    server.wait_until_empty();
    super::check(&service, 1);
    let config = server.run(async |context| {
        let consumer: async_nats::jetstream::consumer::PullConsumer =
            context.get_consumer_from_stream("callbacks", "JOBS").await.unwrap();
        consumer.cached_info().config.clone()
    });
    assert_eq!(config.ack_wait, Duration::from_secs(40));
    assert_eq!(config.filter_subjects, ["jobs.new"]);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn the_streams_of_dead_letters_and_outcome_events_are_reported() {
    let server = Server::start();
    server.prepare();
    let settings =
        server.toml("dead_letter_subject = \"dead.events\"\noutcome_subject = \"outcomes\"");
    let said = checked(&settings).unwrap();
    for expected in [
        "# nats: no stream stores dead.events (nats.dead_letter_subject)",
        "# nats: no stream stores outcomes (nats.outcome_subject)",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    for (name, subject) in [("DEAD", "dead.>"), ("OUTCOMES", "outcomes")] {
        server.run(async |context| {
            let (name, subjects) = (name.to_owned(), vec![subject.to_owned()]);
            let stream = stream::Config { name, subjects, ..stream::Config::default() };
            context.create_stream(stream).await.map(drop).unwrap();
        });
    }
    let said = checked(&settings).unwrap();
    for expected in [
        "# nats: dead.events (nats.dead_letter_subject) is stored by stream DEAD",
        "# nats: outcomes (nats.outcome_subject) is stored by stream OUTCOMES",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
