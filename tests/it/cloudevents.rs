//! CloudEvents over HTTP.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Api, Receiver, Service, event, python};

fn envelope(id: &str, data: &Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/dpf", "type": "job_sending", "data": data})
}

/// The status and the response to an event with these headers.
fn post<'a>(
    api: &Api,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: &str,
) -> (u16, Value) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tls = seal_dpf_urlcallback::tls::pinned(None).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build();
        let request = client.unwrap().post(format!("http://{}/v1/events", api.address));
        let request = request.bearer_auth(&api.token).body(body.to_owned());
        let request = headers.fold(request, |request, (name, value)| request.header(name, value));
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    })
}

/// A message of the public package: its headers and its body.
pub(crate) struct Message {
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// Events that the public package encodes, in each of its modes.
pub(crate) fn messages(events: &[Value]) -> Vec<Message> {
    let message = |mut line: Value| Message {
        headers: serde_json::from_value(line["headers"].take()).unwrap(),
        body: line["body"].as_str().unwrap().to_owned(),
    };
    python("messages.py", events).into_iter().map(message).collect()
}

#[test]
#[ignore = "needs the Python package cloudevents: tests/run"]
fn events_of_the_public_package_are_accepted_once() {
    let service = Service::start("");
    let receiver = Receiver::start();
    let api = service.api();
    let messages = messages(&[event("job_sending", "1", &receiver.url("/"))]);
    assert_eq!(messages.len(), 4);
    for message in messages {
        let headers =
            || message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let (first, again) =
            (post(&api, headers(), &message.body), post(&api, headers(), &message.body));
        assert_eq!((first.0, again.0), (202, 200), "{first:?} {:?}", message.headers);
        assert_eq!(first.1["id"], again.1["id"]);
    }
    let puts = receiver.wait_for(4);
    assert!(puts.iter().all(|put| put.json()["jobState"] == "SENDING"), "by the type");
}

#[test]
fn an_event_in_structured_mode_is_accepted_once() {
    let service = Service::start("");
    let receiver = Receiver::start();
    let text = envelope("c1", &event("job_sending", "1", &receiver.url("/"))).to_string();
    let post = || {
        let kind = "application/cloudevents+json; charset=utf-8";
        service.api().post_bytes(kind, text.clone())
    };
    let first = post();
    assert_eq!((first.status, &first.json()["outcome"]), (202, &"accepted".into()), "{first:?}");
    let again = post();
    assert_eq!((again.status, &again.json()["id"]), (200, &first.json()["id"]));
    assert_eq!(receiver.wait_for(1)[0].json()["jobId"], "1");
    let bad = service.api().post_bytes("application/cloudevents+json", "{\"id\":\"1\"}");
    assert_eq!(bad.status, 422);
    assert!(bad.json()["detail"].as_str().unwrap().contains("specversion"), "{bad:?}");
    let bad = service.api().post_bytes("application/cloudevents+json", "{");
    assert_eq!(bad.status, 400);
}

#[test]
fn an_event_in_binary_mode_is_accepted_with_the_id_of_its_header() {
    let service = Service::start("");
    let receiver = Receiver::start();
    let api = service.api();
    let data = event("job_sending", "1", &receiver.url("/")).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "c%31"),
        ("ce-source", "/dpf"),
        ("ce-type", "job_sending"),
    ];
    let post = || post(&api, headers.into_iter(), &data).0;
    assert_eq!((post(), post()), (202, 200));
    let text = envelope("c1", &event("job_sending", "2", &receiver.url("/"))).to_string();
    let same = api.post_bytes("application/cloudevents+json", text);
    assert_eq!(same.json()["outcome"], "duplicate");
}

#[test]
fn a_batch_has_an_outcome_for_each_event_in_order() {
    let service = Service::start("api.max_event_bytes = 1000\n");
    let receiver = Receiver::start();
    let url = receiver.url("/");
    let long = envelope("c4", &event("job_sending", &"x".repeat(1000), &url));
    let batch = json!([
        envelope("c1", &event("job_sending", "1", &url)),
        envelope("c2", &json!({"event": "job_added"})),
        {"specversion": "1.0"},
        long,
        envelope("c1", &event("job_sending", "1", &url)),
    ]);
    let kind = "application/cloudevents-batch+json";
    let response = service.api().post_bytes(kind, batch.to_string());
    assert_eq!(response.status, 200, "{response:?}");
    let lines = response.lines();
    let outcomes: Vec<_> =
        lines.iter().map(|it| (it["line"].as_u64(), it["outcome"].as_str().unwrap())).collect();
    let expected = ["accepted", "ignored", "refused", "refused", "duplicate"];
    assert_eq!(outcomes, (1..).map(Some).zip(expected).collect::<Vec<_>>());
    assert!(lines[3]["reason"].as_str().unwrap().contains("api.max_event_bytes"));
    assert_eq!(service.api().post_bytes(kind, "{}").status, 400);
    let large = format!("[\"{}\"]", "x".repeat(1 << 20));
    assert_eq!(service.api().post_bytes(kind, large).status, 413);
}
