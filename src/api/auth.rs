//! The bearer token: every path but the two health checks wants it.

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use subtle::ConstantTimeEq as _;

use super::{problem::Problem, server::Visitor, state::Shared};

pub(super) async fn check(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let open = matches!(request.uri().path(), "/healthz" | "/readyz");
    let knows = knows_token(&request, &shared.token.load());
    if knows && let Some(visitor) = request.extensions().get::<Visitor>() {
        visitor.welcome();
    }
    if open || knows {
        return next.run(request).await;
    }
    let detail = "this path wants the header `authorization: Bearer <token>`";
    Problem::new(StatusCode::UNAUTHORIZED, detail).into_response()
}

fn knows_token(request: &Request, token: &str) -> bool {
    let Some(value) = request.headers().get(header::AUTHORIZATION) else { return false };
    let Some((scheme, given)) = value.as_bytes().split_first_chunk::<7>() else { return false };
    // One space or more (RFC 9110, 11.4). The time that this takes says how long the token is, and
    // nothing else.
    let given = given.trim_ascii_start();
    scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.as_bytes()))
}
