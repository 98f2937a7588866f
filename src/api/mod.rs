//! The HTTP API (contract, 3): events in, the queue out, health.
//!
//! It knows the outbox, the intake and the health, and nothing of the delivery.

mod auth;
mod callbacks;
mod events;
pub mod export;
mod health;
pub mod lines;
mod metrics;
mod problem;
mod queue;
pub mod server;
mod strict;
pub mod view;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, middleware};
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::{catch_panic::CatchPanicLayer, timeout::RequestBodyTimeoutLayer};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::{auth::Token, problem::Problem};
use crate::{
    clock::{SharedClock, Timestamp},
    health::Health,
    intake::Intake,
    outbox::Outbox,
    tls::PairFiles,
};

/// The settings of the API (contract, 6: `api.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its token is.
    pub token_file: PathBuf,
    /// Whether somebody has said so, and it is not the data directory's own.
    pub token_file_is_set: bool,
    /// What it speaks TLS with; without, it speaks plain HTTP.
    pub tls: Option<PairFiles>,
    /// How long nothing may come of a request, or between two of a connection.
    pub idle_timeout: Duration,
    /// The longest event, in bytes.
    pub max_event_bytes: usize,
    /// The longest batch, in bytes.
    pub max_batch_bytes: usize,
    /// How many destinations have metrics of their own.
    pub metrics_destinations: usize,
}

/// What the handlers share.
#[derive(Clone)]
pub struct Shared {
    /// Takes events.
    pub intake: Intake,
    /// Is asked for callbacks.
    pub outbox: Arc<dyn Outbox>,
    /// Knows whether all is well.
    pub health: Health,
    /// Knows the time.
    pub clock: SharedClock,
    /// Opens the API.
    pub token: Token,
    /// Gives what was measured.
    pub metrics: PrometheusHandle,
    /// How long callbacks are tried and kept.
    pub terms: view::Terms,
    /// Since when the service runs.
    pub started_at: Timestamp,
    /// Where exports are written.
    pub data_dir: PathBuf,
    /// Limits.
    pub settings: Arc<Settings>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "seal-dpf-urlcallback",
        description = "Job events in, HTTP callbacks out, none lost. Errors are \
                       application/problem+json (RFC 9457); times are RFC 3339 in UTC."
    ),
    modifiers(&Bearer)
)]
struct Document;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::{
            SecurityRequirement,
            security::{Http, HttpAuthScheme, SecurityScheme},
        };
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
        document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(events::post))
        .routes(routes!(callbacks::list))
        .routes(routes!(callbacks::replay))
        .routes(routes!(callbacks::get))
        .routes(routes!(callbacks::cancel))
        .routes(routes!(queue::get))
        .routes(routes!(export::post))
        .routes(routes!(metrics::get))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
}

/// The `OpenAPI` document, generated from the handlers.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().to_openapi()
}

/// The whole API.
pub fn router(shared: Shared) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = axum::Json(document);
    router
        .route("/v1/openapi.json", axum::routing::get(|| async move { document }))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(RequestBodyTimeoutLayer::new(shared.settings.idle_timeout))
        .layer(middleware::from_fn(strict::encoding))
        .layer(middleware::from_fn_with_state(shared.clone(), auth::check))
        .layer(middleware::from_fn(strict::host))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .with_state(shared)
}
