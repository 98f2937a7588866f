//! The `OpenAPI` document, and its claims about texts and numbers. `tests/api/run` compares all of it with
//! the service.

use std::path::Path;

use serde_json::json;

use crate::support::{Service, event};

#[test]
fn the_openapi_document_names_every_path() {
    let service = Service::start("");
    let document = service.api().get("/v1/openapi.json").json();
    // The documented calls.
    let documented = [
        ("post", "/v1/events"),
        ("get", "/v1/callbacks"),
        ("get", "/v1/callbacks/{id}"),
        ("post", "/v1/callbacks/replay"),
        ("post", "/v1/callbacks/{id}/cancel"),
        ("get", "/v1/queue"),
        ("post", "/v1/export"),
        ("get", "/metrics"),
        ("get", "/healthz"),
        ("get", "/readyz"),
    ];
    for (method, path) in documented {
        assert!(document["paths"][path][method].is_object(), "{method} {path}");
    }
    // All other paths found in the code.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    for entry in std::fs::read_dir(folder).unwrap() {
        let code = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let parts = code.split('"').filter(|part| part.starts_with("/v1/"));
        for path in parts.filter(|path| *path != "/v1/openapi.json") {
            assert!(document["paths"][path].is_object(), "{path}");
        }
    }
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    // The callback that receivers get.
    for (name, schema) in [("callback", "Body"), ("notice", "Notice")] {
        let body = &document["webhooks"][name]["put"]["requestBody"]["content"]["application/json"];
        assert_eq!(body["schema"]["$ref"], format!("#/components/schemas/{schema}"));
    }
    // Every reference is valid, and errors are problem documents.
    let text = document.to_string();
    for place in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(place).is_some(), "{place}");
    }
    for path in document["paths"].as_object().unwrap().values() {
        for operation in path.as_object().unwrap().values() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let kinds = response["content"].as_object().into_iter().flat_map(|it| it.keys());
                let is_problem = kinds.eq(["application/problem+json"]);
                assert_eq!(is_problem, status.as_str() >= "400", "{status}: {response}");
            }
        }
    }
}

#[test]
fn filters_take_times_with_an_offset_and_whole_numbers_in_any_notation() {
    let service = Service::start("");
    let api = service.api();
    api.accept(&event("job_sending", "1", "http://127.0.0.1:1/"));
    for (since, count) in [
        ("1738-11-08T20:46:59-14:34", 1),
        ("2016-02-23T20:04:18%2B01:30", 1),
        ("9990-01-01T00:00:00-05:00", 0),
    ] {
        let answer = api.get(&format!("/v1/callbacks?since={since}"));
        assert_eq!(answer.status, 200, "{since}");
        assert_eq!(answer.json()["callbacks"].as_array().unwrap().len(), count, "{since}");
    }
    for limit in ["1.0", "3e20"] {
        let body = format!(r#"{{"filter":{{"all":true}},"limit":{limit},"dryRun":true}}"#);
        let token = format!("Bearer {}", api.token);
        let kind = "application/json";
        let answer = api.request("POST", "/v1/callbacks/retry-now", Some(&token), kind, body);
        assert_eq!((answer.status, answer.json()["matched"].clone()), (200, json!(1)), "{limit}");
    }
    let half = json!({"filter": {"all": true}, "limit": 1.5});
    assert_eq!(api.post("/v1/callbacks/replay", &half).status, 422);
}
