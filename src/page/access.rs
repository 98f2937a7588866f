//! Access to the page: HTTP Basic. The password is a token of the API, or one that was obtained with a
//! one-time link.

use std::time::Instant;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use data_encoding::BASE64;

use super::{
    context::{Page, refused},
    state::Shared,
    user::User,
};
use crate::api::{Role, server::Peer};

/// Headers of every response. Nothing may be loaded from elsewhere, kept by a cache, or shown in a frame.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Without TLS, the page is only available on this machine, because passwords would cross the network in
/// plain text.
pub(super) async fn encrypted(
    State(shared): State<Shared>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>();
    if peer.is_none_or(Peer::is_private) {
        return next.run(request).await;
    }
    let page = Page::of(&shared, &request);
    refused(&page, StatusCode::FORBIDDEN, page.words.needs_tls)
}

pub(super) async fn check(
    State(shared): State<Shared>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().cloned();
    let page = Page::of(&shared, &request);
    let Some(user) = user(&shared, request.headers()) else {
        let mut response = refused(&page, StatusCode::UNAUTHORIZED, page.words.needs_sign_in);
        let basic =
            HeaderValue::from_static("Basic realm=\"seal-dpf-urlcallback\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        return response;
    };
    if let Some(peer) = &peer {
        peer.authenticate();
    }
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    // The nested router sees the path without `/ui`.
    let path = format!("/ui{}", request.uri().path());
    let refusal = if looks {
        None
    } else if user.role == Role::Reader {
        Some(page.words.may_only_look)
    } else if is_from_elsewhere(request.headers()) {
        Some(page.words.from_elsewhere)
    } else {
        None
    };
    let name = user.name.clone();
    request.extensions_mut().insert(user);
    let response = match refusal {
        Some(why) => refused(&page, StatusCode::FORBIDDEN, why),
        None => next.run(request).await,
    };
    if !looks {
        let done = response.status().is_success() || response.status().is_redirection();
        tracing::info!(
            event.action = "page-action",
            event.outcome = if done { "success" } else { "failure" },
            url.path = path,
            http.response.status_code = response.status().as_u16(),
            source.ip = peer.map(|peer| tracing::field::display(peer.address().ip())),
            user.name = name,
            "an operator used the page"
        );
    }
    response
}

fn user(shared: &Shared, headers: &HeaderMap) -> Option<User> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, encoded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let pair = BASE64.decode(encoded.trim_ascii()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let (name, password) = (&pair[..colon], &pair[colon + 1..]);
    let role = shared
        .api
        .tokens
        .role(password)
        .or_else(|| shared.api.sign_in.role(password, Instant::now()))?;
    Some(User { name: String::from_utf8_lossy(name).chars().take(64).collect(), role })
}

/// Whether a request that acts comes from another site's page. Browsers say so in `Sec-Fetch-Site`, but not
/// over plain HTTP; there, `Origin` has to be this host. Other programs send neither, nor a password that a
/// browser has stored.
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site")) {
        return !matches!(site, "same-origin" | "none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let origin = origin.to_str().unwrap_or_default();
    let host = origin.split_once("://").map(|(_, host)| host);
    host.is_none_or(|host| text(header::HOST).is_none_or(|known| !known.eq_ignore_ascii_case(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_other_sites_are_recognized() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
                .collect()
        };
        for (pairs, elsewhere) in [
            (&[][..], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("origin", "http://h:1"), ("host", "h:1")], false),
            (&[("origin", "http://H:1"), ("host", "h:1")], false),
            (&[("origin", "http://other"), ("host", "h:1")], true),
            (&[("origin", "null"), ("host", "h:1")], true),
            (&[("origin", "http://h:1")], true),
        ] {
            assert_eq!(is_from_elsewhere(&headers(pairs)), elsewhere, "{pairs:?}");
        }
    }
}
