//! `/v1/destinations`: list, pause, resume.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    destination_view::{DestinationRequest, DestinationView, DestinationsView},
    problem::Problem,
    request::{Extracted, body, page_limit},
    state::Shared,
    texts,
};
use crate::{
    outbox::{DestinationQuery, ParseCursorError},
    select,
};

/// Filters of a listing of destinations.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only this destination.
    #[param(value_type = Option<texts::Destination>)]
    destination: Option<String>,
    /// Maximum number of destinations on a page: 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `nextCursor` of the previous page.
    #[param(value_type = Option<texts::DestinationCursor>)]
    cursor: Option<String>,
}

/// List destinations with pending or failed callbacks, and paused ones; paused, open and held ones
/// first.
#[utoipa::path(
    get, operation_id = "listDestinations", path = "/v1/destinations", tag = "destinations", params(ListQuery),
    responses((status = 200, body = DestinationsView), (status = 400, body = Problem), (status = 401, body = Problem)),
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<DestinationsView>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let limit = page_limit(query.limit)?;
    let bad = |error: ParseCursorError| Problem::bad_request(error.to_string());
    let cursor = query.cursor.as_deref().map(str::parse).transpose().map_err(bad)?;
    let destination = query.destination.as_deref().map(select::parse_destination).transpose();
    let destination = destination.map_err(|error| Problem::bad_request(error.to_string()))?;
    let query = DestinationQuery { cursor, destination, limit, ..DestinationQuery::default() };
    let now = shared.clock.now();
    let page = shared.outbox.destinations(query, now).await?;
    Ok(Json(DestinationsView::with_rates(page, now)))
}

async fn set(
    shared: &Shared,
    request: Extracted<DestinationRequest>,
    paused: bool,
) -> Result<Json<DestinationView>, Problem> {
    let request = body(request)?;
    let destination = select::parse_callable(&request.destination)
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    let now = shared.clock.now();
    let summary = select::pause(&*shared.outbox, &destination, paused, now).await?;
    Ok(Json(DestinationView::with_rates(summary, now)))
}

/// Pause a destination: its callbacks are kept but neither sent nor allowed to expire.
#[utoipa::path(
    post, operation_id = "pauseDestination", path = "/v1/destinations/pause", tag = "destinations", request_body = DestinationRequest,
    responses((status = 200, body = DestinationView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem)),
)]
pub(super) async fn pause(
    State(shared): State<Shared>,
    request: Extracted<DestinationRequest>,
) -> Result<Json<DestinationView>, Problem> {
    set(&shared, request, true).await
}

/// Resume a destination. The age of its callbacks starts again.
#[utoipa::path(
    post, operation_id = "resumeDestination", path = "/v1/destinations/resume", tag = "destinations", request_body = DestinationRequest,
    responses((status = 200, body = DestinationView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem)),
)]
pub(super) async fn resume(
    State(shared): State<Shared>,
    request: Extracted<DestinationRequest>,
) -> Result<Json<DestinationView>, Problem> {
    set(&shared, request, false).await
}
