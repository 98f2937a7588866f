//! What handlers read from a request: the filter from the query or the form.

use axum::{extract::Request, http::StatusCode, response::Response};
use url::form_urlencoded;

use super::{
    context::{Page, refused},
    filter::Filter,
};

/// The largest form, in bytes: the ids of a page of callbacks, and a filter.
const FORM: usize = 64 * 1024;

/// Fields of a query or form.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) filter: Filter,
    /// Fields that are not of the filter.
    pub(super) others: Vec<(String, String)>,
}

impl Fields {
    /// The value of a field that is not of the filter; empty if it is not given.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.others.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.trim())
    }

    fn parse(text: &[u8], page: &Page, known: &[&str]) -> Result<Self, Box<Response>> {
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(text) {
            if fields.filter.set(&name, &value) {
                continue;
            }
            if name != "lang" && !known.contains(&&*name) {
                let detail = format!("{}: {name}", page.words.unknown_field);
                return Err(Box::new(refused(page, StatusCode::BAD_REQUEST, &detail)));
            }
            fields.others.push((name.into_owned(), value.into_owned()));
        }
        Ok(fields)
    }

    /// Reads the query. `known` are the names of fields that are not of the filter.
    pub(super) fn of_query(
        request: &Request,
        page: &Page,
        known: &[&str],
    ) -> Result<Self, Box<Response>> {
        Self::parse(request.uri().query().unwrap_or_default().as_bytes(), page, known)
    }

    /// Reads the form that is the body.
    pub(super) async fn of_form(
        request: Request,
        page: &Page,
        known: &[&str],
    ) -> Result<Self, Box<Response>> {
        match axum::body::to_bytes(request.into_body(), FORM).await {
            Ok(form) => Self::parse(&form, page, known),
            Err(error) => {
                Err(Box::new(refused(page, StatusCode::PAYLOAD_TOO_LARGE, &error.to_string())))
            }
        }
    }
}
