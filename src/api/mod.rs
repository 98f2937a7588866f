//! The HTTP API: job events, queries and operations on callbacks, health, metrics
//! (docs/producing-events.md, docs/operating.md).
//!
//! It depends on the outbox, the intake and the health checks, but not on delivery.

pub mod action_view;
mod auth;
mod callbacks;
pub mod destination_view;
mod destinations;
mod document;
mod event_schema;
mod events;
pub mod export;
mod health;
pub mod lines;
pub mod links;
mod metrics;
mod problem;
mod queue;
mod reload;
pub mod reloads;
mod request;
pub mod server;
pub mod sign_in;
mod state;
pub mod strict;
mod texts;
mod tokens;
pub mod view;

use axum::{Router, middleware};
use tower_http::{catch_panic::CatchPanicLayer, timeout::RequestBodyTimeoutLayer};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::{
    problem::Problem,
    state::{Settings, Shared},
    tokens::{Role, Tokens},
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "seal-dpf-urlcallback",
                description = "Accepts job events and delivers HTTP callbacks for them. Errors are \
                       application/problem+json (RFC 9457); times are RFC 3339 in UTC."
    ),
    components(schemas(crate::outbox::ListedState, crate::outbox::ErrorKind, crate::callback::Body,
        texts::CallbackId, texts::Destination, texts::DestinationCursor, texts::Name, texts::Time)),
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
        .routes(routes!(callbacks::cancel_all))
        .routes(routes!(callbacks::retry_now))
        .routes(routes!(callbacks::get))
        .routes(routes!(callbacks::cancel))
        .routes(routes!(destinations::list))
        .routes(routes!(destinations::pause))
        .routes(routes!(destinations::resume))
        .routes(routes!(queue::get))
        .routes(routes!(reload::post))
        .routes(routes!(sign_in::post))
        .routes(routes!(export::post))
        .routes(routes!(metrics::get))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
}

/// The whole API.
pub fn router(shared: Shared) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = axum::Json(document::complete(&document));
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
