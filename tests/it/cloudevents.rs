//! CloudEvents over HTTP.

use serde_json::{Value, json};

use crate::support::{Receiver, Service, event};

fn envelope(id: &str, data: &Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/dpf", "type": "job_sending", "data": data})
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let data = event("job_sending", "1", &receiver.url("/")).to_string();
    let post = || {
        runtime.block_on(async {
            let client = reqwest::Client::builder()
                .tls_backend_preconfigured(seal_dpf_urlcallback::tls::pinned(None).unwrap())
                .no_proxy()
                .build()
                .unwrap();
            let request = client
                .post(format!("http://{}/v1/events", api.address))
                .bearer_auth(&api.token)
                .header("content-type", "application/json")
                .header("ce-specversion", "1.0")
                .header("ce-id", "c%31")
                .header("ce-source", "/dpf")
                .header("ce-type", "job_sending");
            let response = request.body(data.clone()).send().await.unwrap();
            response.status().as_u16()
        })
    };
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
