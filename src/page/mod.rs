//! The operator's page at `/ui/`: which callbacks and destinations do not progress, since when, why, what
//! happens next, and the buttons for the actions.
//!
//! Each view is HTML from the server, with plain links and forms; the script only refreshes it, shows local
//! times and selects rows. All URLs are relative, so that the page works below a proxy's path. Data and actions
//! are those of the API: the outbox, [`select`](crate::select), and the views in [`api`](crate::api).
//!
//! Only scripts from `/ui/` may run: the content security policy allows no inline script or style, templates
//! escape everything (`escape`), and only URLs with `http` and `https` become links.

mod access;
mod actions;
mod assets;
mod callbacks;
mod charts;
mod condition;
mod context;
mod destinations;
mod escape;
mod filter;
mod matches;
mod overview;
mod request;
mod sign_in;
mod state;
mod user;
mod words;

use axum::{Router, middleware, routing::get, routing::post};
use tower_http::catch_panic::CatchPanicLayer;

pub use self::state::Shared;
use crate::api::strict;

/// Everything below `/ui`.
pub fn router(shared: Shared) -> Router {
    let views = Router::new()
        .route("/", get(overview::show))
        .route("/search", get(callbacks::search))
        .route("/callbacks", get(callbacks::list))
        .route("/callbacks/{id}", get(callbacks::one))
        .route("/destinations", get(destinations::list))
        .route("/destinations/{action}", post(destinations::act))
        .route("/actions/{action}", get(actions::confirm).post(actions::act))
        .fallback(context::not_found)
        .method_not_allowed_fallback(context::method_not_allowed)
        .layer(middleware::from_fn_with_state(shared.clone(), access::check));
    // Assets contain no secrets, and browsers load them before the sign-in.
    let open = Router::new()
        .route("/assets/{name}", get(assets::get))
        .route("/sign-in", get(sign_in::page).post(sign_in::exchange));
    Router::new()
        .route("/ui", get(context::to_overview))
        .nest("/ui/", views.merge(open))
        .layer(middleware::from_fn_with_state(shared.clone(), access::encrypted))
        .layer(middleware::from_fn(access::headers))
        .layer(middleware::from_fn(strict::encoding))
        .layer(middleware::from_fn(strict::host))
        .layer(CatchPanicLayer::custom(context::panicked))
        .with_state(shared)
}
