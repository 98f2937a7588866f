//! Requests for access tokens: through the clients of the token server's own destination, under the egress
//! rules.

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{StatusCode, header};

use super::{
    clients::Clients,
    failure::describe,
    oauth::{TokenRequest, TokenServer},
    progress::Progress,
};
use crate::callback::Destination;

/// Maximum size of a response, in bytes.
const MAX_BYTES: usize = 65_536;

impl TokenServer for Clients {
    fn ask(&self, request: TokenRequest) -> BoxFuture<'_, Result<(StatusCode, Vec<u8>), String>> {
        async move { Progress::default().of(self.exchange(request)).await }.boxed()
    }
}

impl Clients {
    async fn exchange(&self, request: TokenRequest) -> Result<(StatusCode, Vec<u8>), String> {
        let TokenRequest { url, authorization, form } = request;
        let destination = Destination::of(&url);
        self.check(&url, &destination).await.map_err(|error| error.to_string())?;
        let client = self.of(&url, &destination).map_err(|error| error.to_string())?;
        let mut headers = http::HeaderMap::new();
        if let Some(section) = self.section(&destination) {
            headers.extend(section.headers.clone());
        }
        headers.insert(header::ACCEPT, http::HeaderValue::from_static("application/json"));
        let kind = http::HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        let sent = client.post(url).headers(headers).body(form).send().await;
        let mut response = sent.map_err(|error| describe(error, false).message)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| describe(error, true).message)?
        {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(format!("the response is longer than {MAX_BYTES} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, body))
    }
}
