//! Signing in with a one-time link. `seal-dpf-urlcallback ui` opens the browser with one, so that no token
//! must be copied.
//!
//! The link's secret is in the URL's fragment, which browsers do not send: it is in no log and no `Referer`.
//! The script removes it from the address bar and the history, and exchanges it for a password that is valid
//! until the service ends, for at most twelve hours. It then makes the browser sign in with that password,
//! which the browser keeps like a typed one. The token itself never leaves the service.

use std::time::Instant;

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};

use super::{
    context::{self, Page, html, refused},
    state::Shared,
};

/// The page that a link opens; its script does the rest.
pub(super) async fn page(State(shared): State<Shared>, request: Request) -> Response {
    let page = Page::of(&shared, &request);
    html(StatusCode::OK, &context::SignIn { page: &page })
}

/// Exchanges the secret of a link, which is the body, for a password.
pub(super) async fn exchange(State(shared): State<Shared>, request: Request) -> Response {
    let page = Page::of(&shared, &request);
    let body = axum::body::to_bytes(request.into_body(), 256).await.unwrap_or_default();
    match shared.api.sign_in.password(&body, Instant::now()) {
        Some(password) => ([(header::CONTENT_TYPE, "text/plain")], password).into_response(),
        None => refused(&page, StatusCode::FORBIDDEN, page.words.link_is_over),
    }
}
