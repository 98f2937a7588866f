//! `POST /v1/sign-in`: one-time links to the operator's page.

use std::time::Instant;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{problem::Problem, state::Shared};

/// A link to the operator's page that signs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignInView {
    /// Path and fragment of the link. It is good once, and for a minute. Browsers do not send the fragment,
    /// which is the secret.
    pub path: String,
}

/// Make a one-time link that signs in to the operator's page.
#[utoipa::path(
    post, operation_id = "makeSignInLink", path = "/v1/sign-in", tag = "service",
    responses((status = 200, body = SignInView), (status = 401, body = Problem), (status = 403, body = Problem)),
)]
pub(super) async fn post(State(shared): State<Shared>) -> Result<Json<SignInView>, Problem> {
    let Some(secret) = shared.sign_in.link(Instant::now()) else {
        let detail = "the system has no random numbers";
        return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail));
    };
    Ok(Json(SignInView { path: format!("/ui/sign-in#{secret}") }))
}
