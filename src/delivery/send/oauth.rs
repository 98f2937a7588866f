//! Access tokens for receivers: OAuth 2 with client credentials (RFC 6749, 4.4).
//!
//! A token is kept until it runs out, and requested once however many attempts wait for it. A token server
//! that is away is no failure of the receiver: the attempts are not made, and nothing asks again before a
//! pause is over.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use url::{Url, form_urlencoded};

use super::{
    credentials::{CredentialError, Credentials, read_line},
    response::masked,
};
use crate::{callback::Destination, measure};

/// The part of a token's lifetime that is left when a new one is requested, and the longest such time: a
/// token that expires on the way is rejected.
const EARLY: u32 = 10;
const EARLIEST: Duration = Duration::from_secs(30);

/// Pause after a failed request. It doubles up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Maximum number of characters kept of a server's error message.
const MAX_SAID: usize = 200;

/// `oauth2` of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `token_url`
    pub token_url: Url,
    /// `client_id`
    pub client_id: String,
    /// `client_secret_file`
    pub client_secret_file: PathBuf,
    /// `scope`
    pub scope: Option<String>,
}

/// A token. The Debug output does not show it.
#[derive(Debug, Clone)]
pub struct Token {
    pub(super) credentials: Credentials,
    number: u64,
    until: Option<Instant>,
}

/// There is no token.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no access token from {server}: {reason}")]
pub struct NoToken {
    /// The token server.
    server: Destination,
    /// What went wrong.
    reason: String,
    /// How long to wait before the next request.
    pub pause: Duration,
}

/// A request for a token.
pub(super) struct TokenRequest {
    pub(super) url: Url,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) form: String,
}

/// Who sends requests for tokens.
pub(super) trait TokenServer: Sync {
    /// Sends one, and returns the status and the body of the response.
    fn ask(&self, request: TokenRequest) -> BoxFuture<'_, Result<(StatusCode, Vec<u8>), String>>;
}

/// The tokens of a section.
pub struct Tokens {
    settings: Settings,
    secret: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// Number of tokens so far.
    count: u64,
    /// The server takes client and secret in the body only.
    in_body: bool,
    failed: Option<Failed>,
}

/// The last request has failed.
#[derive(Clone)]
struct Failed {
    reason: String,
    until: Instant,
    pause: Duration,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The response of a token server (RFC 6749, 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<Seconds>,
}

/// Some servers send it as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Seconds {
    fn duration(self) -> Option<Duration> {
        let seconds = match self {
            Self::Number(seconds) => seconds,
            Self::Text(text) => text.parse().ok()?,
        };
        Some(Duration::from_secs(seconds))
    }
}

/// An error response (RFC 6749, 5.2).
#[derive(Default, Deserialize)]
struct Refused {
    error: String,
    error_description: Option<String>,
}

/// Why a request for a token has failed.
enum Fault {
    /// The server does not accept the client, as it was authenticated.
    Client(String),
    Other(String),
}

impl Tokens {
    /// Reads the secret.
    pub fn read(settings: &Settings) -> Result<Self, CredentialError> {
        let file = &settings.client_secret_file;
        let secret = String::from_utf8(read_line(file)?);
        let secret = secret.map_err(|_| CredentialError::Line(file.clone()))?;
        Ok(Self { settings: settings.clone(), secret, state: Mutex::default() })
    }

    /// The URL of the token server.
    pub fn url(&self) -> &Url {
        &self.settings.token_url
    }

    /// The token, or a new one if there is none or the receiver has refused `refused`. `deadline` is that of
    /// the request to the token server.
    pub(super) async fn token(
        &self,
        server: &dyn TokenServer,
        deadline: Duration,
        refused: Option<&Token>,
    ) -> Result<Arc<Token>, NoToken> {
        // The holder of the lock makes the request, and the others use its result. If the holder is dropped,
        // the next one makes it.
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let counts = |token: &Arc<Token>| {
            token.until.is_none_or(|until| now < until)
                && refused.is_none_or(|refused| refused.number != token.number)
        };
        if let Some(token) = state.token.clone().filter(counts) {
            return Ok(token);
        }
        state.token = None;
        if let Some(failed) = state.failed.as_ref().filter(|failed| now < failed.until) {
            return Err(self.no_token(failed.reason.clone(), failed.until - now));
        }
        let fetched = match timeout(deadline, self.fetch(server, &mut state.in_body)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(format!("no response within {}", humantime::format_duration(deadline))),
        };
        measure::token_requested(fetched.is_ok());
        match fetched {
            Ok(granted) => {
                state.failed = None;
                state.count += 1;
                let lifetime = granted.expires_in.and_then(Seconds::duration);
                let token = Arc::new(Token {
                    credentials: Credentials::Bearer(granted.access_token),
                    number: state.count,
                    until: lifetime.map(|it| Instant::now() + it - EARLIEST.min(it / EARLY)),
                });
                state.token = Some(Arc::clone(&token));
                Ok(token)
            }
            Err(reason) => {
                let last = state.failed.as_ref().map(|failed| failed.pause);
                let pause = last.map_or(FIRST_PAUSE, |last| (2 * last).min(LONGEST_PAUSE));
                let until = Instant::now() + pause;
                state.failed = Some(Failed { reason: reason.clone(), until, pause });
                let error = self.no_token(reason, pause);
                tracing::warn!(
                    event.action = "token-failed",
                    event.outcome = "failure",
                    url.domain = error.server.host(),
                    error.message = %error,
                    "receivers that require the token wait for it"
                );
                Err(error)
            }
        }
    }

    fn no_token(&self, reason: String, pause: Duration) -> NoToken {
        NoToken { server: Destination::of(&self.settings.token_url), reason, pause }
    }

    /// Requests a token: with basic authentication, which every server has to support (RFC 6749, 2.3.1), and
    /// if that is refused, with client and secret in the body.
    async fn fetch(&self, server: &dyn TokenServer, in_body: &mut bool) -> Result<Granted, String> {
        let reason = match self.request(server, *in_body).await {
            Ok(granted) => return Ok(granted),
            Err(Fault::Other(reason)) => return Err(reason),
            Err(Fault::Client(reason)) => reason,
        };
        let granted = self.request(server, !*in_body).await.map_err(|_| reason)?;
        *in_body = !*in_body;
        Ok(granted)
    }

    /// Client and secret, encoded as RFC 6749 (2.3.1) wants them.
    fn basic(&self) -> Credentials {
        let encoded =
            |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
        let both = [&self.settings.client_id, &self.secret];
        let [username, password] = both.map(|it| encoded(it).into_bytes());
        Credentials::Basic { username, password }
    }

    fn message(&self, in_body: bool) -> TokenRequest {
        let Settings { token_url, client_id, scope, .. } = &self.settings;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if let Some(scope) = scope {
            form.append_pair("scope", scope);
        }
        let mut authorization = None;
        if in_body {
            form.append_pair("client_id", client_id).append_pair("client_secret", &self.secret);
        } else {
            authorization = self.basic().header();
        }
        TokenRequest { url: token_url.clone(), authorization, form: form.finish() }
    }

    async fn request(&self, server: &dyn TokenServer, in_body: bool) -> Result<Granted, Fault> {
        let request = self.message(in_body);
        let (status, body) = server.ask(request).await.map_err(Fault::Other)?;
        if status != StatusCode::OK {
            return Err(self.refusal(status, &body));
        }
        let granted: Granted = serde_json::from_slice(&body).map_err(|_| {
            Fault::Other("the response is no JSON object with an access_token".into())
        })?;
        let is_bearer = |kind: &String| kind.eq_ignore_ascii_case("bearer");
        if !granted.token_type.as_ref().is_none_or(is_bearer) {
            return Err(Fault::Other("the token is of a type other than bearer".into()));
        }
        let usable = HeaderValue::from_str(&granted.access_token).is_ok();
        if !usable || granted.access_token.is_empty() {
            return Err(Fault::Other("the token cannot be sent in a header".into()));
        }
        Ok(granted)
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> Fault {
        let refused: Refused = serde_json::from_slice(body).unwrap_or_default();
        let mut secrets = self.basic().secrets();
        secrets.push(self.secret.clone());
        let mut reason = format!("it responded with {status}");
        for said in
            std::iter::once(refused.error.as_str()).chain(refused.error_description.as_deref())
        {
            // It may repeat what it was sent, in whatever form.
            let said = masked(said, &secrets, usize::MAX);
            let said: String = said.chars().filter(|it| !it.is_control()).take(MAX_SAID).collect();
            if !said.is_empty() {
                reason.push_str(": ");
                reason.push_str(&said);
            }
        }
        match status {
            StatusCode::BAD_REQUEST if refused.error != "invalid_client" => Fault::Other(reason),
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => Fault::Client(reason),
            _ => Fault::Other(reason),
        }
    }
}
