//! `POST /v1/reload`: the settings are read again.

use axum::{Json, extract::State, http::StatusCode};

use super::{problem::Problem, reloads::ReloadView, state::Shared};

/// Read the settings again: those that can change while the service runs. If one is faulty, nothing changes.
#[utoipa::path(
    post, operation_id = "reloadSettings", path = "/v1/reload", tag = "service",
    responses(
        (status = 200, body = ReloadView), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 422, body = Problem, description = "The settings have faults, and nothing has changed."),
        (status = 503, body = Problem),
    ),
)]
pub(super) async fn post(State(shared): State<Shared>) -> Result<Json<ReloadView>, Problem> {
    match shared.reloads.wait().await {
        Some(Ok(view)) => Ok(Json(view)),
        Some(Err(faults)) => {
            let detail = "the settings have faults, and nothing has changed";
            Err(Problem { faults, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail) })
        }
        None => Err(Problem::shutting_down()),
    }
}
