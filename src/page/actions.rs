//! Actions on callbacks: first the number that match, then a confirmation, then the progress.
//!
//! One request changes a limited number of callbacks, so that it ends soon. Its response has a form for the
//! rest, which the script submits.

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
};

use super::{
    callbacks::Row,
    context::{Answer, Page, Refusal, Tab, html, to},
    filter::Filter,
    request,
    state::Shared,
    words::Words,
};
use crate::{
    callback::CallbackId,
    clock::Timestamp,
    outbox::{ListedState, StateName},
    select::{self, Action, ActionLimits, ActionResult, Selection},
};

/// Maximum number of callbacks that are counted before an action.
const COUNTED: usize = 100_000;

/// Maximum number of callbacks that one request changes.
const STEP: usize = 5_000;

/// Fields of the forms here: whether the action applies to the selected rows or to all that match, whether it
/// applies to everything, how many callbacks matched before the confirmation (and whether there may be more),
/// and the results of earlier steps.
const FIELDS: [&str; 6] = ["scope", "all", "total", "more", "matched", "changed"];

/// Maximum number of callbacks that are named before an action.
const NAMED: usize = 50;

/// The texts of an action.
struct Texts {
    title: &'static str,
    explained: &'static str,
    confirmed: &'static str,
}

impl Texts {
    fn of(action: Action, words: &Words) -> Self {
        let (title, explained, confirmed) = match action {
            Action::Replay => (words.replay, words.replay_explained, words.replay_confirmed),
            Action::Cancel => (words.cancel, words.cancel_explained, words.cancel_confirmed),
            Action::RetryNow => {
                (words.retry_now, words.retry_now_explained, words.retry_now_confirmed)
            }
        };
        Self { title, explained, confirmed }
    }
}

/// The results of earlier steps.
struct Progress {
    matched: u64,
    changed: u64,
    cursor: CallbackId,
}

#[derive(Template)]
#[template(path = "action.html", config = "src/page/askama.toml")]
struct View<'a> {
    page: &'a Page,
    name: &'a str,
    texts: Texts,
    filter: &'a Filter,
    /// How many matched before the confirmation, and whether there may be more.
    total: u64,
    more: bool,
    progress: Option<Progress>,
    /// The first of the selected callbacks, and the number of the others.
    named: Vec<Row>,
    others: usize,
    /// The list with this filter.
    list: String,
    /// The state to which the action applies, and the stage, if only one is selected.
    state: StateName,
    stage: Option<&'static str>,
    /// The times of the filter, which may be given as durations.
    times: [(&'static str, Option<Timestamp>); 4],
}

impl View<'_> {
    /// The conditions of the filter, without ids and state.
    fn facts(&self) -> Vec<(&'static str, &str, Option<Timestamp>)> {
        let at = |name| self.times.iter().find(|(known, _)| *known == name).and_then(|(_, at)| *at);
        let fields =
            self.filter.fields().into_iter().filter(|(name, _)| !["id", "state"].contains(name));
        fields.map(|(name, value)| (name, value, at(name))).collect()
    }
}

impl<'a> View<'a> {
    fn new(
        page: &'a Page,
        name: &'a str,
        action: Action,
        filter: &'a Filter,
        selection: &Selection,
    ) -> Self {
        Self {
            page,
            name,
            texts: Texts::of(action, page.words),
            filter,
            total: 0,
            more: false,
            progress: None,
            named: Vec::new(),
            others: 0,
            list: page.link(filter.list()),
            state: action.state(),
            stage: selection.criteria.stage.map(|stage| page.words.of_stage(stage)),
            times: [
                ("since", selection.criteria.since),
                ("until", selection.criteria.until),
                ("endedSince", selection.criteria.ended_since),
                ("endedUntil", selection.criteria.ended_until),
            ],
        }
    }
}

fn action(page: &Page, name: &str) -> Result<Action, Refusal> {
    match name {
        "replay" => Ok(Action::Replay),
        "cancel" => Ok(Action::Cancel),
        "retry-now" => Ok(Action::RetryNow),
        _ => Err(page.refusal(StatusCode::NOT_FOUND, page.words.no_such_page)),
    }
}

/// Counts what matches and asks for a confirmation.
pub(super) async fn confirm(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let (page, mut fields) = request::query(&shared, &request, Tab::Callbacks, &FIELDS)?;
    let action = action(&page, &name)?;
    let scope = fields.get("scope").to_owned();
    let filter = &mut fields.filter;
    let list = page.link(Filter { ids: Vec::new(), ..filter.clone() }.list());
    match scope.as_str() {
        "all" => filter.ids.clear(),
        "ticked" if filter.ids.is_empty() => {
            return Err(page.refusal(StatusCode::BAD_REQUEST, page.words.nothing_ticked));
        }
        _ => {}
    }
    let listed = filter.state().map_err(|error| page.invalid(&error))?;
    let none = shows_none(filter, listed, action);
    selected_only(filter, listed);
    let outbox = &*shared.api.outbox;
    filter.complete(outbox, &page).await.map_err(|error| error.refusal(&page))?;
    let selection = filter.selection(page.now).map_err(|error| page.invalid(&error))?;
    let mut counted = ActionResult::default();
    if !none {
        let limits = ActionLimits { dry_run: true, limit: Some(COUNTED), cursor: None };
        let acted = select::act(outbox, action, &selection, limits).await;
        counted = acted.map_err(|error| page.failed(&error))?;
    }
    let mut named = Vec::new();
    for id in selection.ids.iter().take(NAMED) {
        let found = outbox.get(*id).await.map_err(|error| page.failed(&error))?;
        named.extend(found.map(|it| Row::new(&it.status, &shared.api.terms.load(), &page)));
    }
    let others = selection.ids.len().saturating_sub(NAMED);
    let (total, more) = (counted.matched, counted.next.is_some());
    let view = View::new(&page, &name, action, filter, &selection);
    Ok(html(StatusCode::OK, &View { total, more, named, others, list, ..view }))
}

/// Whether a list with this filter shows no callback that the action changes.
fn shows_none(filter: &Filter, listed: Option<ListedState>, action: Action) -> bool {
    filter.ids.is_empty() && listed.is_some_and(|it| it.state() != action.state())
}

/// If rows were selected, only they count, whatever the filter of the list was. The action applies to one
/// state; a stage is a part of it.
fn selected_only(filter: &mut Filter, listed: Option<ListedState>) {
    filter.cursor.clear();
    if listed.and_then(ListedState::stage).is_none() {
        filter.state.clear();
    }
    if !filter.ids.is_empty() {
        *filter = Filter { ids: std::mem::take(&mut filter.ids), ..Filter::default() };
    }
}

/// Changes what matches, up to a limit.
pub(super) async fn act(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let (page, mut fields) = request::form(&shared, request, Tab::Callbacks, &FIELDS).await?;
    let action = action(&page, &name)?;
    let cursor = std::mem::take(&mut fields.filter.cursor);
    let cursor = (!cursor.is_empty()).then(|| cursor.parse::<CallbackId>()).transpose();
    let cursor = cursor.map_err(|error| page.invalid(&error))?;
    let completed = fields.filter.complete(&*shared.api.outbox, &page).await;
    completed.map_err(|error| error.refusal(&page))?;
    let filter = &fields.filter;
    let selection = filter.selection(page.now).map_err(|error| page.invalid(&error))?;
    let nothing = !filter.selects() && fields.get("all") != "true";
    let listed = filter.state().map_err(|error| page.invalid(&error))?;
    if nothing || shows_none(filter, listed, action) {
        return Err(page.refusal(StatusCode::BAD_REQUEST, page.words.nothing_selected));
    }
    let limits = ActionLimits { dry_run: false, limit: Some(STEP), cursor };
    let acted = select::act(&*shared.api.outbox, action, &selection, limits).await;
    let acted = acted.map_err(|error| page.failed(&error))?;
    let matched = fields.number("matched").saturating_add(acted.matched);
    let changed = fields.number("changed").saturating_add(acted.changed);
    if let Some(cursor) = acted.next {
        // Without a previous confirmation, this is the only number known.
        let total = fields.number("total").max(matched);
        let more = fields.get("more") == "true" || fields.number("total") == 0;
        let progress = Some(Progress { matched, changed, cursor });
        let view = View::new(&page, &name, action, filter, &selection);
        return Ok(html(StatusCode::OK, &View { total, more, progress, ..view }));
    }
    let done = format!("done={name}&matched={matched}&changed={changed}");
    let place = match filter.ids.as_slice() {
        [] => format!("{}&{done}", filter.list()),
        [id] => format!("callbacks/{id}?{done}"),
        _ => format!("callbacks?{done}"),
    };
    Ok(to(&page, &place))
}
