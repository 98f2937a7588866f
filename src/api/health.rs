//! `GET /healthz` and `GET /readyz`, without a token.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{problem::Problem, state::Shared};

/// Whether the store and the delivery loop make progress.
#[utoipa::path(
    get, operation_id = "isAlive", path = "/healthz", tag = "health", security(()),
    responses((status = 200), (status = 503, body = Problem)),
)]
pub(super) async fn alive(State(shared): State<Shared>) -> Result<Json<Value>, Problem> {
    shared.health.alive().await.map_err(Problem::unavailable)?;
    Ok(Json(json!({"status": "alive"})))
}

/// Whether events are accepted.
#[utoipa::path(
    get, operation_id = "isReady", path = "/readyz", tag = "health", security(()),
    responses((status = 200), (status = 503, body = Problem)),
)]
pub(super) async fn ready(State(shared): State<Shared>) -> Result<Json<Value>, Problem> {
    let nats = shared.health.nats();
    if let Err(reason) = shared.health.ready().await {
        return Err(Problem { nats, ..Problem::unavailable(reason) });
    }
    Ok(Json(match nats {
        Some(nats) => json!({"status": "ready", "nats": nats}),
        None => json!({"status": "ready"}),
    }))
}
