//! Style sheet, script and icon. Their names have a hash of the content, so that browsers keep them.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/script.js");
const ICON: &str = include_str!("assets/icon.svg");

/// The names of the assets.
pub(super) struct Assets {
    pub(super) style: String,
    pub(super) script: String,
    pub(super) icon: String,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    let name = |content: &str, ext: &str| {
        format!("assets/{:08x}.{ext}", crc32fast::hash(content.as_bytes()))
    };
    Assets { style: name(STYLE, "css"), script: name(SCRIPT, "js"), icon: name(ICON, "svg") }
});

pub(super) fn all() -> &'static Assets {
    &ASSETS
}

pub(super) async fn get(Path(name): Path<String>) -> Response {
    let name = format!("assets/{name}");
    let all = all();
    let (kind, content) = match () {
        () if name == all.style => ("text/css; charset=utf-8", STYLE),
        () if name == all.script => ("text/javascript; charset=utf-8", SCRIPT),
        () if name == all.icon => ("image/svg+xml", ICON),
        () => return StatusCode::NOT_FOUND.into_response(),
    };
    let kept = HeaderValue::from_static("public, max-age=31536000, immutable");
    let kind = HeaderValue::from_static(kind);
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, kept)], content).into_response()
}
