//! How connections are made: the HTTP client, without redirects, retries, cookies or decompression, and
//! with a resolver that enforces the egress policy.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::ClientConfig;

use super::{
    connections::IDLE_TIMEOUT,
    credentials::{CredentialError, Credentials},
    names::Names,
    progress::{ConnectLimit, Progress},
};
use crate::{
    callback::{Pattern, SecretUrl},
    egress::Policy,
    tls::{self, PairFiles, TlsError},
};

/// Interval of pings on an HTTP/2 connection in use, and the time-out for each ping.
const PING_PAUSE: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A token, a password or a header.
    #[error("destinations.\"{pattern}\": {error}")]
    Section {
        /// The section.
        pattern: Box<Pattern>,
        /// The reason.
        error: CredentialError,
    },
    /// The client library rejected a setting.
    #[error("cannot build the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Whether connections are kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    Kept,
    None,
}

/// What all clients share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) policy: Arc<Policy>,
    pub(super) names: Arc<Names>,
    pub(super) proxy: Option<SecretUrl>,
    pub(super) idle_per_destination: usize,
}

/// How connections to some destinations are made.
#[derive(Debug)]
pub(super) struct Connecting {
    pub(super) timeout: Duration,
    tls: ClientConfig,
    /// The client for all ports but the service's own.
    pub(super) general: reqwest::Client,
    /// The client for the port of the service's own API. A resolver does not receive the port of a request,
    /// so this client has a separate resolver.
    own_port: OnceLock<reqwest::Client>,
}

impl Connecting {
    pub(super) fn new(
        common: &Common,
        timeout: Duration,
        ca_file: Option<&Path>,
        identity: Option<&PairFiles>,
    ) -> Result<Self, ClientError> {
        let authorities = ca_file.map(tls::authorities).transpose()?;
        let identity = identity.map(PairFiles::read).transpose()?;
        let tls = tls::client(authorities.unwrap_or_default(), identity)?;
        let general = make(common, timeout, tls.clone(), None, Pool::Kept)?;
        Ok(Self { timeout, tls, general, own_port: OnceLock::new() })
    }

    /// The client for the service's own port.
    pub(super) fn own_port(
        &self,
        common: &Common,
        port: u16,
    ) -> Result<reqwest::Client, ClientError> {
        if let Some(client) = self.own_port.get() {
            return Ok(client.clone());
        }
        let client = self.another(common, Some(port), Pool::Kept)?;
        Ok(self.own_port.get_or_init(|| client).clone())
    }

    /// Another client, with separate connections.
    pub(super) fn another(
        &self,
        common: &Common,
        port: Option<u16>,
        pool: Pool,
    ) -> Result<reqwest::Client, ClientError> {
        make(common, self.timeout, self.tls.clone(), port, pool)
    }
}

fn make(
    common: &Common,
    timeout: Duration,
    tls: ClientConfig,
    port: Option<u16>,
    pool: Pool,
) -> Result<reqwest::Client, ClientError> {
    let proxy = common.proxy.as_ref().map(|url| url::Url::parse(url.reveal())).transpose();
    // The settings have been validated.
    let proxy = proxy.ok().flatten();
    let resolver = Resolver {
        policy: Arc::clone(&common.policy),
        names: Arc::clone(&common.names),
        limit: timeout,
        port,
        trusted: proxy.as_ref().and_then(|url| url.host_str()).map(str::to_owned),
    };
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("seal-dpf-urlcallback/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .http2_keep_alive_interval(PING_PAUSE)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(if pool == Pool::Kept { common.idle_per_destination } else { 0 })
        // Only Retry-After is interpreted, so an unusual header must not turn a success into a failure:
        // line folding is replaced by spaces (RFC 9112, 5.2), and invalid headers are ignored.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .connector_layer(ConnectLimit(timeout))
        .dns_resolver(Arc::new(resolver));
    let builder = match proxy {
        Some(mut url) => {
            // The client would decode them as UTF-8. With SOCKS, they cannot be passed in another way.
            let socks = url.scheme().starts_with("socks");
            let header = if socks { None } else { Credentials::take(&mut url) };
            let proxy = reqwest::Proxy::all(url)?;
            builder.proxy(match header.and_then(|it| it.header()) {
                Some(header) => proxy.custom_http_auth(header),
                None => proxy,
            })
        }
        // Proxy variables of the environment are ignored (docs/settings.md).
        None => builder.no_proxy(),
    };
    Ok(builder.build()?)
}

/// A resolver that uses the system's resolver, and returns only addresses that the policy allows.
struct Resolver {
    policy: Arc<Policy>,
    names: Arc<Names>,
    /// Time-out of a look-up.
    limit: Duration,
    /// The port of the connection, if it is known.
    port: Option<u16>,
    /// The name of the proxy, to which the policy does not apply.
    trusted: Option<String>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, limit, port) = (Arc::clone(&self.policy), self.limit, self.port);
        // With a SOCKS proxy, an address in brackets is also passed to the resolver.
        let literal = name.as_str().strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if let Some(address) = literal.and_then(|it| it.parse::<IpAddr>().ok()) {
            let checked = policy.check(address, port);
            let one = std::iter::once(SocketAddr::new(address, 0));
            let found = checked.map(|()| Box::new(one) as Addrs);
            return Box::pin(std::future::ready(found.map_err(Into::into)));
        }
        let names = Arc::clone(&self.names);
        let trusted = self.trusted.as_deref() == Some(name.as_str());
        let progress = Progress::current();
        Box::pin(async move {
            let looked_up = names.look_up(name.as_str(), limit, &progress).await;
            progress.connects();
            let found = looked_up?;
            let mut denied = None;
            let mut allowed = Vec::with_capacity(found.len());
            for address in found.iter().copied() {
                match policy.check(address.ip(), port) {
                    _ if trusted => allowed.push(address),
                    Ok(()) => allowed.push(address),
                    Err(rule) => denied = Some(rule),
                }
            }
            match denied {
                Some(rule) if allowed.is_empty() => Err(rule.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}
