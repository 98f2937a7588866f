//! The API while the store cannot be reached.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use arc_swap::ArcSwap;
use axum::{
    body::Body,
    http::{Request, Response, header},
};
use metrics_exporter_prometheus::PrometheusBuilder;
use seal_dpf_urlcallback::{
    api::{self, links::SignIn},
    config::Config,
    intake::Intake,
    outbox::Outbox as _,
};
use tower::ServiceExt as _;

use super::deliver;
use crate::support::event;

async fn ask(router: &axum::Router, request: http::request::Builder, body: Body) -> Response<Body> {
    let request: Request<Body> = request
        .header(header::HOST, "localhost")
        .header(header::AUTHORIZATION, "Bearer token")
        .body(body)
        .unwrap();
    router.clone().oneshot(request).await.unwrap()
}

#[test]
fn a_service_without_its_store_is_alive_but_not_ready() {
    deliver(1, async |outbox, health, _| {
        let config = Config::defaults().unwrap();
        let intake = Intake::new(outbox.clone() as _, config.egress.clone(), None);
        let router = api::router(api::Shared {
            intake,
            outbox: outbox.clone() as _,
            health,
            clock: outbox.clock(),
            tokens: api::Tokens::new("token".into(), None),
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            sign_in: SignIn::default(),
            reloads: api::reloads::Reloads::new().0,
            terms: Arc::new(ArcSwap::from_pointee(config.terms())),
            started_at: outbox.clock().now(),
            data_dir: "/nowhere".into(),
            settings: Arc::new(config.api.clone()),
        });
        let expect = async |ready: u16, accepted: u16| {
            let get = |path: &str| Request::get(path);
            assert_eq!(ask(&router, get("/healthz"), Body::empty()).await.status(), 200);
            assert_eq!(ask(&router, get("/readyz"), Body::empty()).await.status(), ready);
            let event = event("job_sending", "1", "http://127.0.0.1:1/").to_string();
            let post = Request::post("/v1/events").header(header::CONTENT_TYPE, "application/json");
            let answer = ask(&router, post, event.into()).await;
            let after = answer.headers().get(header::RETRY_AFTER).map(|it| it.to_str().unwrap());
            assert_eq!(
                (answer.status().as_u16(), after),
                (accepted, (ready == 503).then_some("5"))
            );
        };
        expect(200, 202).await;
        outbox.down.store(true, SeqCst);
        expect(503, 503).await;
        outbox.down.store(false, SeqCst);
        expect(200, 202).await;
    });
}
