//! The HTTP clients: pooled, without redirects, retries, cookies or decompression, and with a resolver
//! that enforces the egress policy.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::ClientConfig;
use url::Url;

use super::{
    connections::IDLE_TIMEOUT,
    credentials::{CredentialError, CredentialFile, Credentials},
    names::{Names, NoLookup},
    progress::{ConnectLimit, Progress},
};
use crate::{
    callback::{Destination, SecretUrl},
    egress::{Denied, Policy},
    tls::{self, PairFiles, TlsError},
};

/// Maximum number of destinations with their own client, after their connections were renewed.
const MAX_RENEWED: usize = 256;

/// Interval of pings on an HTTP/2 connection in use, and the time-out for each ping.
const PING_PAUSE: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings of the clients.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time-out for establishing a connection, TLS included.
    pub connect_timeout: Duration,
    /// Maximum number of idle connections to one destination.
    pub idle_per_destination: usize,
    /// Proxy for all callbacks (`egress.proxy`).
    pub proxy: Option<SecretUrl>,
    /// Certificates that are trusted in addition to the system's (`tls.ca_file`).
    pub ca_file: Option<PathBuf>,
    /// Client certificate and its key (`tls.client_cert_file`, `tls.client_key_file`).
    pub identity: Option<PairFiles>,
    /// Credentials by destination (`auth`).
    pub auth: BTreeMap<Destination, CredentialFile>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle_per_destination: 16,
            proxy: None,
            ca_file: None,
            identity: None,
            auth: BTreeMap::new(),
        }
    }
}

/// A client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A token or password.
    #[error("cannot read the credentials for {destination}: {error}")]
    Credentials {
        /// The destination.
        destination: Destination,
        /// The reason.
        error: CredentialError,
    },
    /// The client library rejected a setting.
    #[error("cannot build the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why a URL is not called.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The egress policy denies it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The HTTP client treats the brackets of the address as part of the name for which it verifies the
    /// certificate.
    #[error(
        "an https URL with an IPv6 address is not supported with egress.proxy; use a host name"
    )]
    Unsupported,
    /// It cannot be checked, because the DNS look-up could not start.
    #[error(transparent)]
    NoLookup(#[from] NoLookup),
}

/// The clients, with everything that is read from files, so that they can be replaced while the service
/// runs.
///
/// There is one client for all URLs, except those with the port of the service's own API: a resolver is
/// not told the port, so the second client has a resolver that knows it. A destination whose
/// connections were renewed has its own client.
#[derive(Debug)]
pub struct Clients {
    general: reqwest::Client,
    own_port: Option<u16>,
    others: Mutex<Others>,
    names: Arc<Names>,
    settings: Settings,
    tls: ClientConfig,
    policy: Arc<Policy>,
    auth: BTreeMap<Destination, Credentials>,
}

/// The clients that only a few destinations need.
#[derive(Debug, Default)]
struct Others {
    own_port: Option<reqwest::Client>,
    /// Clients of destinations whose connections were renewed, and when.
    renewed: HashMap<Destination, (Instant, reqwest::Client)>,
}

impl Clients {
    /// Reads the files and builds the clients.
    pub fn build(settings: &Settings, policy: Arc<Policy>) -> Result<Self, ClientError> {
        let authorities = settings.ca_file.as_deref().map(tls::authorities).transpose()?;
        let identity = settings.identity.as_ref().map(PairFiles::read).transpose()?;
        let tls = tls::client(authorities.unwrap_or_default(), identity)?;
        let auth = settings.auth.iter().map(|(destination, file)| {
            let destination = destination.clone();
            match file.read() {
                Ok(credentials) => Ok((destination, credentials)),
                Err(error) => Err(ClientError::Credentials { destination, error }),
            }
        });
        let auth = auth.collect::<Result<_, _>>()?;
        let names = Names::new(settings.connect_timeout);
        let general = make(settings, tls.clone(), &policy, &names, None, Pool::Kept)?;
        let own_port = policy.own.map(|own| own.port());
        let settings = settings.clone();
        let others = Mutex::default();
        Ok(Self { general, own_port, others, names, settings, tls, policy, auth })
    }

    /// The client for a URL of this destination.
    pub fn of(&self, url: &Url, destination: &Destination) -> Result<reqwest::Client, ClientError> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = others.renewed.get(destination) {
            return Ok(client.clone());
        }
        if url.port_or_known_default() != self.own_port || self.own_port.is_none() {
            return Ok(self.general.clone());
        }
        if let Some(client) = &others.own_port {
            return Ok(client.clone());
        }
        Ok(others.own_port.insert(self.another(url, Pool::Kept)?).clone())
    }

    /// A client that always opens a new connection.
    pub fn fresh(&self, url: &Url) -> Result<reqwest::Client, ClientError> {
        self.another(url, Pool::None)
    }

    /// Renews the connections to a destination: its next attempts open new ones. Does nothing if they
    /// were renewed less than `pause` ago.
    pub fn renew(
        &self,
        url: &Url,
        destination: &Destination,
        pause: Duration,
    ) -> Result<(), ClientError> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let recent = |at: &Instant| now.duration_since(*at) < pause;
        if others.renewed.get(destination).is_some_and(|(at, _)| recent(at)) {
            return Ok(());
        }
        let client = self.another(url, Pool::Kept)?;
        if others.renewed.len() >= MAX_RENEWED {
            let oldest = others.renewed.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(destination, _)| destination.clone()) {
                others.renewed.remove(&oldest);
            }
        }
        others.renewed.insert(destination.clone(), (now, client));
        Ok(())
    }

    fn another(&self, url: &Url, pool: Pool) -> Result<reqwest::Client, ClientError> {
        let port = url.port_or_known_default().filter(|port| Some(*port) == self.own_port);
        make(&self.settings, self.tls.clone(), &self.policy, &self.names, port, pool)
    }

    /// The credentials: user and password of the URL, which are removed from it, or those configured
    /// for the destination.
    pub fn credentials(
        &self,
        url: &mut Url,
        destination: &Destination,
    ) -> Option<Cow<'_, Credentials>> {
        Credentials::take(url)
            .map(Cow::Owned)
            .or_else(|| self.auth.get(destination).map(Cow::Borrowed))
    }

    /// Checks a URL. With a proxy, the proxy resolves the name. If the name can also be resolved here,
    /// all its addresses must be allowed; the proxy may resolve it to others.
    pub async fn check(&self, url: &Url) -> Result<(), CheckError> {
        self.policy.check_url(url)?;
        if self.settings.proxy.is_some()
            && url.scheme() == "https"
            && matches!(url.host(), Some(url::Host::Ipv6(_)))
        {
            return Err(CheckError::Unsupported);
        }
        if self.settings.proxy.is_some()
            && let Some(url::Host::Domain(name)) = url.host()
        {
            let found = match self.names.look_up(name, &Progress::current()).await {
                Ok(found) => found,
                Err(error) => match error.downcast::<NoLookup>() {
                    Ok(busy) => return Err((*busy).into()),
                    Err(_) => return Ok(()),
                },
            };
            for address in found.iter() {
                self.policy.check(address.ip(), url.port_or_known_default())?;
            }
        }
        Ok(())
    }
}

/// Whether connections are kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Kept,
    None,
}

fn make(
    settings: &Settings,
    tls: ClientConfig,
    policy: &Arc<Policy>,
    names: &Arc<Names>,
    port: Option<u16>,
    pool: Pool,
) -> Result<reqwest::Client, ClientError> {
    let proxy = settings.proxy.as_ref().map(|url| url::Url::parse(url.reveal())).transpose();
    // The settings have been validated.
    let proxy = proxy.ok().flatten();
    let resolver = Resolver {
        policy: Arc::clone(policy),
        names: Arc::clone(names),
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
        .pool_max_idle_per_host(if pool == Pool::Kept { settings.idle_per_destination } else { 0 })
        // Only Retry-After is interpreted, so an unusual header must not turn a success into a failure:
        // line folding is replaced by spaces (RFC 9112, 5.2), and invalid headers are ignored.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .connector_layer(ConnectLimit(settings.connect_timeout))
        .dns_resolver(Arc::new(resolver));
    let builder = match proxy {
        Some(mut url) => {
            // The client would decode them as UTF-8. With SOCKS there is no other way to pass them.
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
    /// The port of the connection, if it is known.
    port: Option<u16>,
    /// The name of the proxy, to which the policy does not apply.
    trusted: Option<String>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, port) = (Arc::clone(&self.policy), self.port);
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
            let looked_up = names.look_up(name.as_str(), &progress).await;
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
