//! `/v1/callbacks`: query, replay, cancel, retry now.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    action_view::{ActionRequest, CancelView, ReplayView, RetryNowView},
    problem::Problem,
    request::{Extracted, body, page_limit},
    state::Shared,
    texts,
    view::{CallbackView, PageView},
};
use crate::{
    callback::CallbackId,
    outbox::{self, Criteria, ErrorKind, ListedState},
    select::{self, Action, ActionResult, CancelError, SelectError, Selectors},
};

/// Filters of a listing.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only callbacks in this state. `due`, `waiting` and `in_flight` are parts of `pending`.
    #[param(value_type = Option<ListedState>)]
    state: Option<String>,
    /// Only callbacks to this destination.
    #[param(value_type = Option<texts::Destination>)]
    destination: Option<String>,
    /// Only callbacks of this job.
    job_id: Option<String>,
    /// Only callbacks with this job directory name.
    job_id_fs: Option<String>,
    /// Only callbacks whose last error is of this kind.
    #[param(value_type = Option<ErrorKind>)]
    error_kind: Option<String>,
    /// Only callbacks accepted since this time, or within this duration: `2026-01-31T08:00:00Z`,
    /// `2h`.
    #[param(value_type = Option<texts::Time>)]
    since: Option<String>,
    /// Only callbacks accepted before this time, or longer ago than this duration.
    #[param(value_type = Option<texts::Time>)]
    until: Option<String>,
    /// Only callbacks that ended since this time, or within this duration.
    #[param(value_type = Option<texts::Time>)]
    ended_since: Option<String>,
    /// Only callbacks that ended before this time, or longer ago than this duration.
    #[param(value_type = Option<texts::Time>)]
    ended_until: Option<String>,
    /// Maximum number of callbacks on a page: 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `nextCursor` of the previous page.
    #[param(value_type = Option<texts::CallbackId>)]
    cursor: Option<String>,
}

fn parse_id(text: &str) -> Result<CallbackId, Problem> {
    text.parse()
        .map_err(|error: crate::callback::ParseIdError| Problem::bad_request(error.to_string()))
}

fn path_id(id: Result<Path<String>, PathRejection>) -> Result<CallbackId, Problem> {
    let Path(id) = id.map_err(|error| Problem::bad_request(error.body_text()))?;
    parse_id(&id)
}

fn not_found(id: CallbackId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, CancelError::Unknown(id).to_string())
}

/// List callbacks, newest first.
#[utoipa::path(
    get, operation_id = "listCallbacks", path = "/v1/callbacks", tag = "callbacks", params(ListQuery),
    responses((status = 200, body = PageView), (status = 400, body = Problem), (status = 401, body = Problem)),
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<PageView>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let limit = page_limit(query.limit)?;
    let listed = query.state.as_deref().map(select::parse_state).transpose();
    let selectors = Selectors {
        destination: query.destination,
        job_id: query.job_id,
        job_id_fs: query.job_id_fs,
        error_kind: query.error_kind,
        since: query.since,
        until: query.until,
        ended_since: query.ended_since,
        ended_until: query.ended_until,
    };
    let criteria = selectors.parse(shared.clock.now());
    let (listed, criteria) = match (listed, criteria) {
        (Ok(listed), Ok(criteria)) => (listed, criteria),
        (Err(error), _) | (_, Err(error)) => return Err(Problem::bad_request(error.to_string())),
    };
    let cursor = query.cursor.as_deref().map(parse_id).transpose()?;
    let query = outbox::Query {
        state: listed.map(ListedState::state),
        criteria: Criteria { stage: listed.and_then(ListedState::stage), ..criteria },
        cursor,
        limit,
        oldest_first: false,
    };
    let page = shared.outbox.list(query).await?;
    Ok(Json(PageView::new(&page, &shared.terms.load())))
}

/// One callback with its body and its attempts: the latest thousand and the last one.
#[utoipa::path(
    get, operation_id = "getCallback", path = "/v1/callbacks/{id}", tag = "callbacks", params(("id" = texts::CallbackId, Path)),
    responses(
        (status = 200, body = CallbackView), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 404, body = Problem),
    ),
)]
pub(super) async fn get(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<CallbackView>, Problem> {
    let id = path_id(id)?;
    let detail = shared.outbox.get(id).await?.ok_or_else(|| not_found(id))?;
    Ok(Json(CallbackView::detailed(detail, &shared.terms.load())))
}

async fn act(
    shared: &Shared,
    action: Action,
    request: Extracted<ActionRequest>,
) -> Result<ActionResult, Problem> {
    let request = body(request)?;
    let bad = |error: SelectError| Problem::bad_request(error.to_string());
    let selection = request.filter.selection(shared.clock.now()).map_err(bad)?;
    let limits = request.limits().map_err(bad)?;
    Ok(select::act(&*shared.outbox, action, &selection, limits).await?)
}

/// Make failed callbacks pending again.
#[utoipa::path(
    post, operation_id = "replayCallbacks", path = "/v1/callbacks/replay", tag = "callbacks", request_body = ActionRequest,
    responses((status = 200, body = ReplayView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem)),
)]
pub(super) async fn replay(
    State(shared): State<Shared>,
    request: Extracted<ActionRequest>,
) -> Result<Json<ReplayView>, Problem> {
    Ok(Json(act(&shared, Action::Replay, request).await?.into()))
}

/// Cancel pending callbacks. They are then failed.
#[utoipa::path(
    post, operation_id = "cancelCallbacks", path = "/v1/callbacks/cancel", tag = "callbacks", request_body = ActionRequest,
    responses((status = 200, body = CancelView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem)),
)]
pub(super) async fn cancel_all(
    State(shared): State<Shared>,
    request: Extracted<ActionRequest>,
) -> Result<Json<CancelView>, Problem> {
    Ok(Json(act(&shared, Action::Cancel, request).await?.into()))
}

/// Make pending callbacks due now, close the breakers and end the holds of their destinations.
#[utoipa::path(
    post, operation_id = "retryCallbacksNow", path = "/v1/callbacks/retry-now", tag = "callbacks", request_body = ActionRequest,
    responses((status = 200, body = RetryNowView), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem)),
)]
pub(super) async fn retry_now(
    State(shared): State<Shared>,
    request: Extracted<ActionRequest>,
) -> Result<Json<RetryNowView>, Problem> {
    Ok(Json(act(&shared, Action::RetryNow, request).await?.into()))
}

/// Cancel a pending callback. It is then failed.
#[utoipa::path(
    post, operation_id = "cancelCallback", path = "/v1/callbacks/{id}/cancel", tag = "callbacks", params(("id" = texts::CallbackId, Path)),
    responses(
        (status = 200, body = CallbackView), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "Not pending, or being sent", body = Problem),
    ),
)]
pub(super) async fn cancel(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<CallbackView>, Problem> {
    let id = path_id(id)?;
    match select::cancel(&*shared.outbox, id).await? {
        Ok(()) => get(State(shared), Ok(Path(id.to_string()))).await,
        Err(CancelError::Unknown(id)) => Err(not_found(id)),
        Err(error) => Err(Problem::new(StatusCode::CONFLICT, error.to_string())),
    }
}
