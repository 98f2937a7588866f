//! What a request has to be before anything of it is looked at.

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::problem::Problem;

/// A request of HTTP/1.1 names one valid host (RFC 9112, 3.2): what stands before the service may
/// choose by it, and must not see another one than the service does.
pub(super) async fn host(request: Request, next: Next) -> Response {
    if request.version() == Version::HTTP_11 && !has_one_host(request.headers()) {
        let detail =
            "a request of HTTP/1.1 has one header `host`: a name or an address, and a port";
        return Problem::bad_request(detail).into_response();
    }
    next.run(request).await
}

fn has_one_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    // It may be empty, where the sender knows none.
    let is_host = |host: &str| {
        !host.contains(['/', '?', '#', '@', '\\', '%', ' '])
            && url::Url::parse(&format!("http://{host}/")).is_ok()
    };
    host.is_empty() || is_host(host)
}

/// Bodies are taken as they are: one that is compressed would be read as garbage.
pub(super) async fn encoding(request: Request, next: Next) -> Response {
    let encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    let identity = |value: &http::HeaderValue| {
        value.to_str().is_ok_and(|value| {
            value.split(',').all(|one| one.trim().eq_ignore_ascii_case("identity"))
        })
    };
    if !encodings.into_iter().all(identity) {
        let detail = "no content encoding but identity is understood; send the body uncompressed";
        return Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).into_response();
    }
    next.run(request).await
}
