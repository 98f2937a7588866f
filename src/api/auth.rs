//! The bearer token: every path except the two health checks requires it.

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use subtle::ConstantTimeEq as _;

use super::{problem::Problem, server::Peer, state::Shared};

pub(super) async fn check(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let open = matches!(request.uri().path(), "/healthz" | "/readyz");
    let knows = knows_token(&request, &shared.token.load());
    if knows && let Some(peer) = request.extensions().get::<Peer>() {
        peer.authenticate();
    }
    if open || knows {
        return next.run(request).await;
    }
    let detail = "this path requires the header `authorization: Bearer <token>`";
    Problem::new(StatusCode::UNAUTHORIZED, detail).into_response()
}

fn knows_token(request: &Request, token: &str) -> bool {
    let Some(value) = request.headers().get(header::AUTHORIZATION) else { return false };
    let Some((scheme, given)) = value.as_bytes().split_first_chunk::<7>() else { return false };
    // One space or more (RFC 9110, 11.4). The comparison takes constant time, so its duration reveals
    // only the length of the token.
    let given = given.trim_ascii_start();
    scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.as_bytes()))
}
