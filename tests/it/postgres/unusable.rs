//! Databases that cannot be used: each gets a clear error, and nothing is changed.

use super::alone;
use crate::support::{PASSWORD, Service, eventually, postgres};

/// The error of a command with these settings, which must fail.
fn refused_by(command: &str, settings: &str) -> String {
    let service = Service::prepare(settings);
    let output = service.run(&[command]);
    assert!(!output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn refused(settings: &str) -> String {
    refused_by("serve", settings)
}

fn at(url: &str) -> String {
    format!("outbox.postgres.url = \"{url}\"\n")
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn unusable_databases_are_reported_with_the_reason() {
    let server = postgres::server();
    let url = server.url();
    let with = |option: &str| at(&format!("{url}&options=-c%20{option}"));
    let role = "DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN;";
    server.run(async |client| client.batch_execute(role).await.unwrap());
    for (settings, expected) in [
        (at("postgresql://postgres@127.0.0.1:1/postgres"), "refused"),
        (at(&url.replace("/postgres?", "/no_such_database?")), "no_such_database"),
        (at(&url.replace("postgres@", "no_such_role@")), "no_such_role"),
        (at(&url.replace("postgres@", "stranger@")), "permission denied"),
        (with("synchronous_commit%3Doff"), "synchronous_commit is off"),
        (with("default_transaction_read_only%3Don"), "transactions are read-only"),
    ] {
        for command in ["serve", "check-config"] {
            let said = refused_by(command, &settings);
            assert!(said.contains(expected), "{command} {settings}: {said}");
            assert!(said.lines().count() < 6, "{said}");
        }
    }
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_schema_of_something_else_or_of_a_later_version_is_not_changed() {
    let server = postgres::server();
    let schema = "of_something_else";
    let sql = format!(
        "DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; CREATE TABLE {schema}.mine (id int)"
    );
    server.run(async |client| client.batch_execute(&sql).await.unwrap());
    let said = refused(&server.toml(schema));
    assert!(said.contains("contains something else"), "{said}");

    let (mut service, settings) = alone();
    service.serve();
    assert_eq!(service.terminate(), Some(0));
    let schema = service.folder().file_name().unwrap().to_string_lossy().into_owned();
    let later = format!("UPDATE \"{schema}\".meta SET version = version + 1, oldest = version + 1");
    server.run(async |client| client.batch_execute(&later).await.unwrap());
    let said = refused(&settings);
    assert!(said.contains("supports up to"), "{said}");
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_database_of_another_cluster_is_not_used_instead() {
    let (mut server, other) = (postgres::Server::start(), postgres::Server::start());
    let mut service = Service::prepare(&at(&server.url_with(&other)));
    service.serve();
    let api = service.api();
    server.crash();
    let body = |text: Vec<u8>| String::from_utf8(text).unwrap();
    eventually("it says why it is not ready", || {
        body(api.get("/readyz").body).contains("belong to one cluster").then_some(())
    });
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'urlcallback'";
    let schemas: i64 =
        other.run(async |client| client.query_one(schemas, &[]).await.unwrap().get(0));
    assert_eq!(schemas, 0, "a schema was made in the wrong database");
    server.restart();
    eventually("it is ready again", || (api.get("/readyz").status == 200).then_some(()));
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn an_import_requires_an_unused_schema() {
    let (mut service, settings) = alone();
    service.serve();
    let mut machine = Service::start("");
    assert_eq!(machine.terminate(), Some(0));
    assert!(machine.run(&["export", "--file", "empty.ndjson"]).status.success());
    let other = Service::prepare(&settings);
    std::fs::copy(machine.path("empty.ndjson"), other.path("empty.ndjson")).unwrap();
    let import = || other.run(&["import", "--file", "empty.ndjson"]);
    let said = String::from_utf8(import().stderr).unwrap();
    assert!(said.contains("stop it first"), "{said}");
    // Nothing has changed: the service continues, and can be restarted.
    assert_eq!(service.api().get("/readyz").status, 200);
    assert_eq!(service.terminate(), Some(0));
    service.serve();
    assert_eq!(service.terminate(), Some(0));
    let imported = import();
    assert!(imported.status.success(), "{imported:?}");
}

#[test]
fn settings_of_postgres_are_checked() {
    let check = |settings: &str| {
        let service = Service::prepare(settings);
        let output = service.run(&["check-config"]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    for (settings, expected) in [
        ("outbox.postgres.password_file = \"config.toml\"", "also requires outbox.postgres.url"),
        ("outbox.postgres.url = \"mysql://host/db\"", "begins with postgresql://"),
        ("outbox.postgres.url = \"postgresql:///db\"", "names no host"),
        (
            "outbox.postgres.url = \"postgresql://h/d?password=nobody-may-see-this\"",
            "outbox.postgres.password_file",
        ),
        ("outbox.postgres.url = \"postgresql://h/d?no_such=1\"", "no_such"),
        (
            "outbox.postgres.url = \"postgresql://h/d\"\noutbox.postgres.schema = \"pg_x\"",
            "not beginning with pg_",
        ),
        (
            "outbox.postgres.url = \"postgresql://h/d\"\noutbox.postgres.password_file = \"none\"",
            "cannot read none",
        ),
    ] {
        let (passed, said) = check(settings);
        assert!(!passed && said.contains(expected), "{settings}: {said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
    let (passed, said) =
        check("outbox.postgres.url = \"postgresql://u:nobody-may-see-this@127.0.0.1:1/d\"");
    assert!(!passed && said.contains("refused"), "{said}");
    assert!(said.contains("postgresql://u:***@127.0.0.1:1/d"), "{said}");
    assert!(!said.contains(PASSWORD));
}
