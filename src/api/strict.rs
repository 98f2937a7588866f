//! Checks that apply to every request before it is routed.

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::problem::Problem;

/// Requires exactly one valid Host header (RFC 9112, 3.2): a proxy in front of the service may route by
/// it, and must route by the same host that the service sees.
pub async fn host(request: Request, next: Next) -> Response {
    if request.version() == Version::HTTP_11 && !has_one_host(request.headers()) {
        let detail = "an HTTP/1.1 request needs exactly one valid `host` header";
        return Problem::bad_request(detail).into_response();
    }
    next.run(request).await
}

fn has_one_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    // It may be empty if the client has no host name.
    let is_host = |host: &str| {
        !host.contains(['/', '?', '#', '@', '\\', '%', ' '])
            && url::Url::parse(&format!("http://{host}/")).is_ok()
    };
    host.is_empty() || is_host(host)
}

/// Rejects compressed bodies, which would be parsed as garbage.
pub async fn encoding(request: Request, next: Next) -> Response {
    let encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    let identity = |value: &http::HeaderValue| {
        value.to_str().is_ok_and(|value| {
            value.split(',').all(|one| one.trim().eq_ignore_ascii_case("identity"))
        })
    };
    if !encodings.into_iter().all(identity) {
        let detail = "unsupported content encoding; send the body uncompressed";
        return Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).into_response();
    }
    next.run(request).await
}
