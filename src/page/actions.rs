//! Actions on callbacks: first the number that match, then a confirmation, then the progress.
//!
//! One request changes a limited number, so that it ends soon; its response has a form for the rest, which
//! the script sends by itself.

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
    response::Response,
};

use super::{
    context::{Page, Tab, failed, html, refused, to},
    filter::Filter,
    request::Fields,
    state::Shared,
};
use crate::{
    callback::CallbackId,
    select::{self, Action, ActionLimits},
};

/// Callbacks that are counted before an action.
const COUNTED: usize = 100_000;

/// Callbacks that one request changes.
const STEP: usize = 5_000;

/// Fields of the forms here.
const FIELDS: [&str; 3] = ["all", "matched", "changed"];

fn action(name: &str) -> Option<Action> {
    match name {
        "replay" => Some(Action::Replay),
        "cancel" => Some(Action::Cancel),
        "retry-now" => Some(Action::RetryNow),
        _ => None,
    }
}

#[derive(Template)]
#[template(path = "action.html", config = "src/page/askama.toml")]
struct View<'a> {
    page: &'a Page,
    name: &'a str,
    title: &'static str,
    explained: &'static str,
    filter: &'a Filter,
    /// So many match; after a step, so many did.
    matched: u64,
    /// There may be more.
    more: bool,
    /// What earlier steps changed, and the cursor of the next one.
    progress: Option<(u64, String)>,
}

impl<'a> View<'a> {
    fn new(page: &'a Page, name: &'a str, action: Action, filter: &'a Filter) -> Self {
        let words = page.words;
        let (title, explained) = match action {
            Action::Replay => (words.replay, words.replay_explained),
            Action::Cancel => (words.cancel, words.cancel_explained),
            Action::RetryNow => (words.retry_now, words.retry_now_explained),
        };
        Self { page, name, title, explained, filter, matched: 0, more: false, progress: None }
    }
}

/// Counts what matches and asks for a confirmation.
pub(super) async fn confirm(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let page = Page::of(&shared, &request).on(Tab::Callbacks);
    let Some(action) = action(&name) else {
        return refused(&page, StatusCode::NOT_FOUND, page.words.no_such_page);
    };
    let mut fields = match Fields::of_query(&request, &page, &FIELDS) {
        Ok(fields) => fields,
        Err(response) => return *response,
    };
    let filter = &mut fields.filter;
    if shows_none(filter, action) {
        return html(StatusCode::OK, &View::new(&page, &name, action, filter));
    }
    selected_only(filter);
    let selection = match filter.selection(page.now) {
        Ok(selection) => selection,
        Err(error) => return refused(&page, StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let limits = ActionLimits { dry_run: true, limit: Some(COUNTED), cursor: None };
    match select::act(&*shared.api.outbox, action, &selection, limits).await {
        Ok(counted) => {
            let view = View::new(&page, &name, action, filter);
            let more = counted.next.is_some();
            html(StatusCode::OK, &View { matched: counted.matched, more, ..view })
        }
        Err(error) => failed(&page, &error),
    }
}

/// Whether a list with this filter shows no callback that the action changes.
fn shows_none(filter: &Filter, action: Action) -> bool {
    filter.ids.is_empty() && !filter.state.is_empty() && filter.state != action.state().as_str()
}

/// Rows that were ticked count alone, whatever the filter of the list was.
fn selected_only(filter: &mut Filter) {
    filter.cursor.clear();
    filter.state.clear();
    if !filter.ids.is_empty() {
        *filter = Filter { ids: std::mem::take(&mut filter.ids), ..Filter::default() };
    }
}

/// Changes what matches, up to a limit.
pub(super) async fn act(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let page = Page::of(&shared, &request).on(Tab::Callbacks);
    let Some(action) = action(&name) else {
        return refused(&page, StatusCode::NOT_FOUND, page.words.no_such_page);
    };
    let mut fields = match Fields::of_form(request, &page, &FIELDS).await {
        Ok(fields) => fields,
        Err(response) => return *response,
    };
    let cursor = std::mem::take(&mut fields.filter.cursor);
    let cursor = (!cursor.is_empty()).then(|| cursor.parse::<CallbackId>()).transpose();
    let selection = fields.filter.selection(page.now);
    let (cursor, selection) = match (cursor, selection) {
        (Ok(cursor), Ok(selection)) => (cursor, selection),
        (Err(error), _) => return refused(&page, StatusCode::BAD_REQUEST, &error.to_string()),
        (_, Err(error)) => return refused(&page, StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let nothing = !fields.filter.selects() && fields.get("all") != "true";
    if nothing || shows_none(&fields.filter, action) {
        return refused(&page, StatusCode::BAD_REQUEST, page.words.nothing_selected);
    }
    let limits = ActionLimits { dry_run: false, limit: Some(STEP), cursor };
    let acted = match select::act(&*shared.api.outbox, action, &selection, limits).await {
        Ok(acted) => acted,
        Err(error) => return failed(&page, &error),
    };
    let before = |name| fields.get(name).parse::<u64>().unwrap_or(0);
    let matched = before("matched").saturating_add(acted.matched);
    let changed = before("changed").saturating_add(acted.changed);
    if let Some(next) = acted.next {
        let view = View::new(&page, &name, action, &fields.filter);
        let progress = Some((changed, next.to_string()));
        return html(StatusCode::OK, &View { matched, progress, ..view });
    }
    let query = match fields.filter.ids.as_slice() {
        [] => fields.filter.query_string(),
        [id] => return to(&page, &format!("callbacks/{id}")),
        _ => String::new(),
    };
    to(&page, &format!("callbacks?{query}&done={name}&matched={matched}&changed={changed}"))
}
