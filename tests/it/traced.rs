//! W3C Trace Context, from the event to each attempt and the log.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::support::{Answer, Api, Put, Receiver, Service, event, eventually, python};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OTHER: &str = "0af7651916cd43dd8448eb211c80319c";

fn parent(trace: &str) -> String {
    format!("00-{trace}-00f067aa0ba902b7-01")
}

/// An event of a trace.
fn traced(job: &str, url: &str) -> Value {
    let mut event = event("job_sending", job, url);
    event["traceparent"] = parent(TRACE).into();
    event["tracestate"] = "congo=t61rcWkgMzE".into();
    event
}

/// Trace and span of a request.
fn span(put: &Put) -> [String; 2] {
    let parts: Vec<_> = put.header("traceparent").split('-').collect();
    assert_eq!((parts.len(), parts[0], parts[3]), (4, "00", "01"), "{put:?}");
    [parts[1].to_owned(), parts[2].to_owned()]
}

#[test]
fn each_attempt_and_its_log_line_are_a_span_of_the_events_trace() {
    let receiver = Receiver::answering(vec![Answer::Status(503)], Answer::Status(200));
    let service = Service::start("");
    let api = service.api();
    api.wait_for_state(&api.accept(&traced("1", &receiver.url("/"))), "delivered");
    let puts = receiver.puts();
    let spans: Vec<_> = puts.iter().map(span).collect();
    assert!(spans.iter().all(|it| it[0] == TRACE), "{spans:?}");
    assert!(spans[0][1] != spans[1][1] && spans.iter().all(|it| it[1] != "00f067aa0ba902b7"));
    assert!(puts.iter().all(|put| put.header("tracestate") == "congo=t61rcWkgMzE"));
    for (action, span) in [
        ("callback-accepted", Value::Null),
        ("callback-retry", spans[0][1].as_str().into()),
        ("callback-delivered", spans[1][1].as_str().into()),
    ] {
        let line = eventually(action, || {
            service.log().into_iter().find(|line| line["event.action"] == action)
        });
        assert_eq!((&line["trace.id"], &line["span.id"]), (&TRACE.into(), &span), "{line}");
    }
    api.wait_for_state(&api.accept(&event("job_sending", "2", &receiver.url("/"))), "delivered");
    assert_eq!(receiver.puts()[2].header("traceparent"), "");
}

#[test]
#[ignore = "needs the Python package opentelemetry_api: tests/run"]
fn each_attempt_is_a_span_for_the_public_package() {
    let receiver = Receiver::answering(vec![Answer::Status(503)], Answer::Status(200));
    let service = Service::start("");
    let api = service.api();
    api.wait_for_state(&api.accept(&traced("1", &receiver.url("/"))), "delivered");
    let puts = receiver.puts();
    let header = |put: &Put, name: &str| put.header(name).to_owned();
    let headers: Vec<_> = puts
        .iter()
        .map(|put| json!({"traceparent": header(put, "traceparent"), "tracestate": header(put, "tracestate")}))
        .collect();
    let expected: Vec<_> = puts
        .iter()
        .map(|put| {
            let [trace, span] = span(put);
            json!({
                "valid": true, "trace": trace, "span": span, "sampled": true,
                "state": "congo=t61rcWkgMzE",
            })
        })
        .collect();
    assert_eq!(python("spans.py", &headers), expected);
    assert_eq!((expected.len(), &expected[0]["trace"]), (2, &TRACE.into()));
}

/// Submits events with a trace in the header. Returns the response.
fn post(api: &Api, kind: &str, body: &str) -> String {
    let mut client = TcpStream::connect(api.address).unwrap();
    let (token, length, parent) = (&api.token, body.len(), parent(OTHER));
    write!(
        client,
        "POST /v1/events HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\n\
         traceparent: {parent}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_header_of_a_request_applies_to_its_events_without_a_trace() {
    let receiver = Receiver::start();
    let service = Service::start("");
    let api = service.api();
    let url = receiver.url("/");
    let cloud = |job: &str, trace: Option<&str>| {
        let mut it = json!({"specversion": "1.0", "id": job, "source": "s", "type": "job_sending",
                            "data": event("job_sending", job, &url)});
        if let Some(trace) = trace {
            it["traceparent"] = parent(trace).into();
        }
        it
    };
    for (kind, body, trace) in [
        ("application/json", event("job_sending", "1", &url), OTHER),
        ("application/json", traced("2", &url), TRACE),
        ("application/x-ndjson", event("job_sending", "3", &url), OTHER),
        ("application/cloudevents+json", cloud("4", None), OTHER),
        ("application/cloudevents+json", cloud("5", Some(TRACE)), TRACE),
        ("application/cloudevents-batch+json", json!([cloud("6", None)]), OTHER),
    ] {
        let before = receiver.count();
        let answer = post(&api, kind, &body.to_string());
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        let put = receiver.wait_for(before + 1).pop().unwrap();
        assert_eq!(span(&put)[0], trace, "{kind} {body}");
    }
}

#[test]
fn an_invalid_trace_is_ignored_and_one_of_the_wrong_type_is_malformed() {
    let receiver = Receiver::start();
    let service = Service::start("");
    let api = service.api();
    let mut invalid = traced("1", &receiver.url("/"));
    invalid["traceparent"] = parent(&"0".repeat(32)).into();
    api.wait_for_state(&api.accept(&invalid), "delivered");
    let put = receiver.puts().remove(0);
    assert_eq!(["traceparent", "tracestate"].map(|name| put.header(name)), ["", ""]);
    invalid["traceparent"] = 7.into();
    assert_eq!(api.post("/v1/events", &invalid).status, 400);
}

#[test]
fn a_trace_survives_a_restart_and_an_export() {
    let receiver = Receiver::answering(vec![Answer::Status(400)], Answer::Status(200));
    let mut service = Service::start("");
    let id = service.api().accept(&traced("1", &receiver.url("/")));
    service.api().wait_for_state(&id, "failed");
    assert_eq!(service.terminate(), Some(0));
    let export = service.run(&["export"]);
    assert!(export.status.success(), "{export:?}");
    service.serve();
    let api: Api = service.api();
    api.post("/v1/callbacks/replay", &json!({"filter": {"all": true}}));
    api.wait_for_state(&id, "delivered");
    let spans: Vec<_> = receiver.puts().iter().map(span).collect();
    assert!(spans[1][0] == TRACE && spans[0][1] != spans[1][1], "{spans:?}");
    let mut other = Service::prepare("");
    let imported = other.run_with_input(&["import", "--file", "-"], &export.stdout);
    assert!(imported.status.success(), "{imported:?}");
    other.serve();
    other.api().post("/v1/callbacks/replay", &json!({"filter": {"all": true}}));
    let put = receiver.wait_for(3).pop().unwrap();
    assert_eq!((span(&put)[0].as_str(), put.header("tracestate")), (TRACE, "congo=t61rcWkgMzE"));
}
