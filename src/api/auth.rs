//! The bearer tokens: every path except the two health checks requires one, and the read-only one opens
//! nothing but GET and HEAD.

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{problem::Problem, server::Peer, state::Shared, tokens::Role};

pub(super) async fn check(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let open = matches!(request.uri().path(), "/healthz" | "/readyz");
    let role = given_token(&request).and_then(|token| shared.tokens.role(token));
    if role.is_some()
        && let Some(peer) = request.extensions().get::<Peer>()
    {
        peer.authenticate();
    }
    match role {
        // Only the method decides, so that no handler with an effect can be missed.
        Some(Role::Reader) if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            forbidden(&request).into_response()
        }
        None if !open => {
            let detail = "this path requires the header `authorization: Bearer <token>`";
            Problem::new(StatusCode::UNAUTHORIZED, detail).into_response()
        }
        _ => next.run(request).await,
    }
}

fn given_token(request: &Request) -> Option<&[u8]> {
    let value = request.headers().get(header::AUTHORIZATION)?;
    let (scheme, given) = value.as_bytes().split_first_chunk::<7>()?;
    // One space or more (RFC 9110, 11.4).
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| given.trim_ascii_start())
}

fn forbidden(request: &Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    tracing::debug!(
        event.action = "request-forbidden",
        http.request.method = %method,
        url.path = path,
        "a request with the read-only token was refused"
    );
    let detail = format!("this token may only read; {method} requires the token of api.token_file");
    Problem::new(StatusCode::FORBIDDEN, detail)
}
