//! `GET /v1/queue`: the summary of the outbox.

use axum::{Json, extract::State};

use super::{problem::Problem, state::Shared, view::QueueView};

/// Summary of the outbox.
#[utoipa::path(
    get, operation_id = "getQueue", path = "/v1/queue", tag = "callbacks",
    responses((status = 200, body = QueueView), (status = 401, body = Problem)),
)]
pub(super) async fn get(State(shared): State<Shared>) -> Result<Json<QueueView>, Problem> {
    let now = shared.clock.now();
    Ok(Json(QueueView::new(shared.outbox.summary(now).await?, &shared.terms.load(), now)))
}
