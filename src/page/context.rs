//! What all views share: language, links, sign-in, and the pages for errors.

use std::{any::Any, fmt::Display, sync::Arc};

use askama::Template;
use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
};
use url::form_urlencoded;

use super::{
    assets::{self, Assets},
    state::Shared,
    user::User,
    words::{DE, EN, Words},
};
use crate::{
    api::Role,
    clock::{SharedClock, Timestamp},
    outbox::OutboxError,
};

/// The views in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Callbacks,
    Destinations,
    None,
}

/// The data for the frame of every view.
pub(super) struct Page {
    pub(super) words: &'static Words,
    /// Whether the language was chosen explicitly, so that links keep it.
    chosen: bool,
    /// The relative path from this view to `/ui/`.
    pub(super) root: &'static str,
    pub(super) tab: Tab,
    pub(super) assets: &'static Assets,
    /// When the request arrived.
    pub(super) now: Timestamp,
    clock: SharedClock,
    /// When the service was started.
    pub(super) started_at: Timestamp,
    /// Name of the signed-in user; empty before the sign-in.
    pub(super) user: String,
    pub(super) may_act: bool,
    /// Path of this view and its query, from `root`, to choose the other language.
    here: String,
}

impl Page {
    pub(super) fn of(shared: &Shared, request: &Request) -> Self {
        let user = request.extensions().get::<User>();
        let path = request.uri().path();
        let path = path.strip_prefix("/ui/").unwrap_or(path).trim_start_matches('/');
        let query = request.uri().query().unwrap_or_default();
        let lang = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "lang");
        let words = lang.as_ref().map_or_else(|| preferred(request), |(_, lang)| chosen(lang));
        Self {
            words,
            chosen: lang.is_some(),
            root: if path.matches('/').count() == 1 { "../" } else { "./" },
            tab: Tab::None,
            assets: assets::all(),
            now: shared.api.clock.now(),
            clock: Arc::clone(&shared.api.clock),
            started_at: shared.api.started_at,
            user: user.map(|it| it.name.clone()).unwrap_or_default(),
            may_act: user.is_some_and(|it| it.role == Role::Operator),
            here: if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") },
        }
    }

    /// The same in the language that a form's body requests.
    pub(super) fn in_language(self, lang: &str) -> Self {
        Self { words: chosen(lang), chosen: true, ..self }
    }

    /// When the view is rendered. The browser computes ages from it. It can be later than the request,
    /// because preparing a view may take a while.
    pub(super) fn made_at(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn on(self, tab: Tab) -> Self {
        Self { tab, ..self }
    }

    /// A link to a view: its path from `/ui/`, with a query or without one.
    pub(super) fn link(&self, to: impl AsRef<str>) -> String {
        let to = to.as_ref();
        let (root, lang) = (self.root, self.words.lang);
        match (self.chosen, to.contains('?')) {
            (false, _) => format!("{root}{to}"),
            (true, false) => format!("{root}{to}?lang={lang}"),
            (true, true) => format!("{root}{to}&lang={lang}"),
        }
    }

    /// The language that was chosen, for a hidden field of a form; empty if none was.
    pub(super) fn lang_field(&self) -> &'static str {
        if self.chosen { self.words.lang } else { "" }
    }

    /// This view in the other language.
    pub(super) fn other_language(&self) -> String {
        let (path, query) = self.here.split_once('?').unwrap_or((&self.here, ""));
        let others = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "lang");
        let mut to = form_urlencoded::Serializer::new(String::new());
        to.extend_pairs(others).append_pair("lang", self.words.other);
        format!("{}{path}?{}", self.root, to.finish())
    }

    /// A number with separators between its thousands.
    pub(super) fn number(&self, number: impl Display) -> String {
        let digits = number.to_string();
        let mut grouped = String::with_capacity(digits.len() * 4 / 3);
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                grouped.push_str(self.words.thousands);
            }
            grouped.push(digit);
        }
        grouped
    }

    /// The number of those that are not shown.
    pub(super) fn and_more(&self, others: impl Display) -> String {
        let Words { and, more, .. } = self.words;
        format!("{and} {} {more}", self.number(others))
    }

    /// The same, if there may be more than these.
    pub(super) fn and_at_least(&self, others: impl Display) -> String {
        let Words { and_at_least, more, .. } = self.words;
        format!("{and_at_least} {} {more}", self.number(others))
    }

    pub(super) fn is_on(&self, tab: Tab) -> bool {
        self.tab == tab
    }
}

fn chosen(lang: &str) -> &'static Words {
    if lang == DE.lang { &DE } else { &EN }
}

/// The language that the browser prefers: German if it comes before English.
fn preferred(request: &Request) -> &'static Words {
    let header = request.headers().get(header::ACCEPT_LANGUAGE).and_then(|it| it.to_str().ok());
    let first = header.unwrap_or_default().split([',', ';']).map(str::trim).find_map(|lang| {
        let is = |words: &Words| lang.split('-').next() == Some(words.lang);
        if is(&DE) { Some(&DE) } else { is(&EN).then_some(&EN) }
    });
    first.unwrap_or(&EN)
}

/// Renders a view.
pub(super) fn html(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => {
            let kind = HeaderValue::from_static("text/html; charset=utf-8");
            (status, [(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            tracing::error!(error.message = %error, "a view of the page cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "problem.html", config = "src/page/askama.toml")]
struct ProblemView<'a> {
    page: &'a Page,
    status: u16,
    detail: &'a str,
}

#[derive(Template)]
#[template(path = "sign_in.html", config = "src/page/askama.toml")]
pub(super) struct SignIn<'a> {
    pub(super) page: &'a Page,
}

/// A page with the reason why nothing was done.
pub(super) fn refused(page: &Page, status: StatusCode, detail: &str) -> Response {
    html(status, &ProblemView { page, status: status.as_u16(), detail })
}

/// What a handler returns instead of its view.
#[derive(Debug)]
pub(super) struct Refusal(Box<Response>);

/// What a handler returns.
pub(super) type Answer = Result<Response, Refusal>;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl Page {
    /// The page for a request that cannot be met.
    pub(super) fn refusal(&self, status: StatusCode, detail: &str) -> Refusal {
        Refusal(Box::new(refused(self, status, detail)))
    }

    /// The page for a field that cannot be read.
    pub(super) fn invalid(&self, error: &impl Display) -> Refusal {
        let detail = format!("{} {error}", self.words.invalid_field);
        self.refusal(StatusCode::BAD_REQUEST, &detail)
    }

    /// The page for an error of the outbox.
    pub(super) fn failed(&self, error: &OutboxError) -> Refusal {
        let detail = format!("{} {error}", self.words.outbox_failed);
        self.refusal(StatusCode::SERVICE_UNAVAILABLE, &detail)
    }
}

pub(super) async fn not_found(State(shared): State<Shared>, request: Request) -> Response {
    let page = Page::of(&shared, &request);
    refused(&page, StatusCode::NOT_FOUND, page.words.no_such_page)
}

pub(super) async fn method_not_allowed(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    request: Request,
) -> Response {
    let page = Page::of(&shared, &request);
    let detail = format!("/ui{} does not take {method}", uri.path());
    refused(&page, StatusCode::METHOD_NOT_ALLOWED, &detail)
}

/// Redirects to a view after an action, so that a reload does not repeat it.
pub(super) fn to(page: &Page, view: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    match HeaderValue::from_str(&page.link(view)) {
        Ok(to) => drop(response.headers_mut().insert(header::LOCATION, to)),
        Err(_) => return refused(page, StatusCode::BAD_REQUEST, page.words.no_such_page),
    }
    response
}

/// Redirects to the URL with a trailing slash, which relative links require.
pub(super) async fn to_overview() -> Redirect {
    Redirect::permanent("ui/")
}

pub(super) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!(event.action = "page-panic", "a view of the page panicked");
    (StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the log of the service")
        .into_response()
}
