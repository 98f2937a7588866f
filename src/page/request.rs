//! What handlers read from a request: the page, and the filter from the query or the form.

use axum::{extract::Request, http::StatusCode};
use url::form_urlencoded;

use super::{
    context::{Page, Refusal, Tab},
    filter::Filter,
    state::Shared,
};

/// Maximum size of a form, in bytes: the ids of a page of callbacks, and a filter.
const FORM: usize = 64 * 1024;

/// Fields of a query or form.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) filter: Filter,
    /// Fields that do not belong to the filter.
    pub(super) others: Vec<(String, String)>,
}

impl Fields {
    /// The value of a field that does not belong to the filter; empty if it is absent.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.others.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.trim())
    }

    /// The number in a field; 0 if there is none.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap_or(0)
    }

    fn parse(text: &[u8], page: &Page, known: &[&str]) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(text) {
            if fields.filter.set(&name, &value) {
                continue;
            }
            if name != "lang" && !known.contains(&&*name) {
                let detail = format!("{} {name}", page.words.unknown_field);
                return Err(page.refusal(StatusCode::BAD_REQUEST, &detail));
            }
            fields.others.push((name.into_owned(), value.into_owned()));
        }
        Ok(fields)
    }
}

/// Reads the query of a request to a view. `known` are the names of allowed fields that do not belong to the
/// filter.
pub(super) fn query(
    shared: &Shared,
    request: &Request,
    tab: Tab,
    known: &[&str],
) -> Result<(Page, Fields), Refusal> {
    let page = Page::of(shared, request).on(tab);
    let query = request.uri().query().unwrap_or_default();
    let fields = Fields::parse(query.as_bytes(), &page, known)?;
    Ok((page, fields))
}

/// Reads the form that is the body of a request.
pub(super) async fn form(
    shared: &Shared,
    request: Request,
    tab: Tab,
    known: &[&str],
) -> Result<(Page, Fields), Refusal> {
    let page = Page::of(shared, &request).on(tab);
    let form = axum::body::to_bytes(request.into_body(), FORM)
        .await
        .map_err(|error| page.refusal(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string()))?;
    let lang = form_urlencoded::parse(&form).find(|(name, _)| name == "lang");
    let page = match lang {
        Some((_, lang)) => page.in_language(&lang),
        None => page,
    };
    let fields = Fields::parse(&form, &page, known)?;
    Ok((page, fields))
}
