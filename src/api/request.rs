//! Request parsing shared by the handlers: JSON bodies and page limits.

use axum::{Json, extract::rejection::JsonRejection, http::HeaderMap};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};

use super::problem::Problem;
use crate::{callback::Trace, event::Given};

/// Number of items on a page if no limit is given.
const DEFAULT_LIMIT: usize = 100;

/// The largest limit of a page.
const MAX_LIMIT: usize = 1000;

/// Checks the limit of a page.
pub(super) fn page_limit(limit: Option<usize>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::bad_request(format!("`limit` must be from 1 to {MAX_LIMIT}")))
    }
}

/// Reads a JSON object. The derived implementation would also accept an array, with the members in
/// order.
pub(super) fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<T, D::Error> {
    let members = serde_json::Map::deserialize(from)?;
    serde_json::from_value(members.into()).map_err(D::Error::custom)
}

/// Reads a number of items. In JSON, 1.0 is a whole number too.
pub(super) fn whole_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else { return Ok(None) };
    let whole = || match number.as_f64() {
        // No store has that many callbacks.
        Some(float) if float >= 9e15 => Some(usize::MAX),
        Some(float) if float.fract() == 0.0 => format!("{float:.0}").parse().ok(),
        _ => None,
    };
    let found = number.as_u64().and_then(|it| usize::try_from(it).ok()).or_else(whole);
    found.map(Some).ok_or_else(|| D::Error::custom(format!("{number} is not a whole number")))
}

/// The body of a request, which is a JSON object.
pub(super) struct Body<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Body<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        object(from).map(Self)
    }
}

/// A body as axum extracts it.
pub(super) type Extracted<T> = Result<Json<Body<T>>, JsonRejection>;

/// The body, or the problem with it.
pub(super) fn body<T>(extracted: Extracted<T>) -> Result<T, Problem> {
    match extracted {
        Ok(Json(Body(body))) => Ok(body),
        Err(error) => Err(Problem::new(error.status(), error.body_text())),
    }
}

/// What the headers apply to each event of a request: the trace.
pub(super) fn given(headers: &HeaderMap) -> Given {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let trace = text("traceparent").and_then(|it| Trace::parse(it, text("tracestate")));
    Given { trace, ..Given::default() }
}
