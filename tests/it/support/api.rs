//! The API as a client sees it.

use std::net::SocketAddr;

use serde_json::Value;

/// The API as a client sees it.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) certificate: Option<String>,
    pub(crate) token: String,
}

/// A response of the API.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        self.body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Api {
    /// Any request. `token` is sent unchanged.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        kind: &str,
        body: impl Into<reqwest::Body>,
    ) -> Response {
        self.try_request(method, path, token, kind, body).unwrap()
    }

    /// The same, if the response may be incomplete.
    pub(crate) fn try_request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        kind: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<Response> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(
                seal_dpf_urlcallback::tls::pinned(self.certificate.as_deref()).unwrap(),
            )
            .no_proxy()
            .timeout(super::DEADLINE)
            .build()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let scheme = if self.certificate.is_some() { "https" } else { "http" };
            let url = format!("{scheme}://{}{path}", self.address);
            let mut request = client.request(method.parse().unwrap(), url).body(body);
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            if !kind.is_empty() {
                request = request.header("content-type", kind);
            }
            let response = request.send().await?;
            Ok(Response {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                body: response.bytes().await?.to_vec(),
            })
        })
    }

    /// A request with the token; `None` if the response was incomplete.
    pub(crate) fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> Option<Response> {
        let token = format!("Bearer {}", self.token);
        self.try_request(method, path, Some(&token), kind, body.to_owned()).ok()
    }

    fn authorized(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Response {
        self.request(method, path, Some(&format!("Bearer {}", self.token)), kind, body)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.authorized("GET", path, "", Vec::new())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.authorized("POST", path, "application/json", body.to_string().into_bytes())
    }

    pub(crate) fn post_bytes(&self, kind: &str, body: impl Into<Vec<u8>>) -> Response {
        self.authorized("POST", "/v1/events", kind, body.into())
    }

    /// Submits a batch, which must be answered.
    pub(crate) fn post_lines(&self, lines: &str) -> Response {
        let response = self.post_bytes("application/x-ndjson", lines.to_owned());
        assert_eq!(response.status, 200, "{response:?}");
        response
    }

    /// Submits an event, which must be accepted. Returns the id.
    pub(crate) fn accept(&self, event: &Value) -> String {
        let response = self.post("/v1/events", event);
        assert_eq!(response.status, 202, "{response:?}");
        response.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn callback(&self, id: &str) -> Value {
        let response = self.get(&format!("/v1/callbacks/{id}"));
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// Waits until the callback is in this state.
    pub(crate) fn wait_for_state(&self, id: &str, state: &str) -> Value {
        let end = std::time::Instant::now() + super::DEADLINE;
        loop {
            let callback = self.callback(id);
            if callback["state"] == state {
                return callback;
            }
            let late = std::time::Instant::now() > end;
            assert!(!late, "{id} is not {state}: {callback}, queue {}", self.queue());
            std::thread::park_timeout(super::PAUSE);
        }
    }

    pub(crate) fn queue(&self) -> Value {
        self.get("/v1/queue").json()
    }
}
