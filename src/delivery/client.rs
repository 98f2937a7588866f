//! The one HTTP client of the service: pooled, without redirects, retries, cookies or
//! decompression of its own, and with a resolver that enforces the egress policy.

use std::{
    borrow::Cow, collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::ClientConfig;
use tower::util::MapRequestLayer;
use url::Url;

use super::credentials::{CredentialError, CredentialFile, Credentials};
use crate::{
    callback::{Destination, SecretUrl},
    egress::{Denied, Policy},
    measure,
    tls::{self, PairFiles, TlsError},
};

/// How long a connection without work is kept. Servers close theirs after 5 s to 75 s; one
/// that we keep too long costs nothing but a look when it is used again.
pub(super) const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the other end of an HTTP/2 connection in use is asked whether it is there, and how
/// long it may take to say so.
const PING_PAUSE: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What the client is made of.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// How long one connection may take to come about, TLS included.
    pub connect_timeout: Duration,
    /// How many idle connections to one destination are kept.
    pub per_destination: usize,
    /// A proxy for everything (`egress.proxy`).
    pub proxy: Option<SecretUrl>,
    /// Certificates that are trusted beside the system's (`tls.ca_file`).
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key (`tls.client_cert_file`, `tls.client_key_file`).
    pub identity: Option<PairFiles>,
    /// What lets us in, by destination (`auth`).
    pub auth: BTreeMap<Destination, CredentialFile>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A token or password.
    #[error("what lets us in at {destination} cannot be read: {error}")]
    Credentials {
        /// Where.
        destination: Destination,
        /// Why not.
        error: CredentialError,
    },
    /// The client library refused a setting.
    #[error("the HTTP client cannot be made: {0}")]
    Client(#[from] reqwest::Error),
}

/// The way to the receivers, with all that is read from files, so that it can be made anew
/// while the service runs.
///
/// There is one client for everything, and one for the port that the service's own API listens
/// at: what a resolver is asked does not say the port, so the second one's resolver knows it.
#[derive(Debug)]
pub struct Clients {
    general: reqwest::Client,
    own_port: Option<(u16, reqwest::Client)>,
    settings: Settings,
    tls: ClientConfig,
    policy: Arc<Policy>,
    auth: BTreeMap<Destination, Credentials>,
}

impl Clients {
    /// Reads the files and makes them.
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
        Self::make(settings.clone(), tls, policy, auth)
    }

    /// The same, without the connections that there are.
    pub fn renewed(&self) -> Result<Self, ClientError> {
        let Self { settings, tls, policy, auth, .. } = self;
        Self::make(settings.clone(), tls.clone(), Arc::clone(policy), auth.clone())
    }

    fn make(
        settings: Settings,
        tls: ClientConfig,
        policy: Arc<Policy>,
        auth: BTreeMap<Destination, Credentials>,
    ) -> Result<Self, ClientError> {
        let own_port = policy.own.map(|own| own.port());
        let own_port = own_port
            .map(|port| {
                Ok::<_, ClientError>((port, make(&settings, tls.clone(), &policy, Some(port))?))
            })
            .transpose()?;
        let general = make(&settings, tls.clone(), &policy, None)?;
        Ok(Self { general, own_port, settings, tls, policy, auth })
    }

    /// The client for a URL.
    pub fn of(&self, url: &Url) -> &reqwest::Client {
        match &self.own_port {
            Some((port, client)) if url.port_or_known_default() == Some(*port) => client,
            _ => &self.general,
        }
    }

    /// What lets us in: the user and password of the URL, which are taken out of it, or what is
    /// set for the destination.
    pub fn credentials(
        &self,
        url: &mut Url,
        destination: &Destination,
    ) -> Option<Cow<'_, Credentials>> {
        Credentials::take(url)
            .map(Cow::Owned)
            .or_else(|| self.auth.get(destination).map(Cow::Borrowed))
    }

    /// Whether the URL may be called. Through a proxy it is the proxy that resolves the name,
    /// so where the name is known here too, all its addresses have to be allowed; the proxy
    /// may know others.
    pub async fn check(&self, url: &Url) -> Result<(), Denied> {
        self.policy.check_url(url)?;
        if self.settings.proxy.is_some()
            && let Some(url::Host::Domain(name)) = url.host()
            && let Ok(found) = tokio::net::lookup_host((name, 0)).await
        {
            for address in found {
                self.policy.check(address.ip(), url.port_or_known_default())?;
            }
        }
        Ok(())
    }
}

fn make(
    settings: &Settings,
    tls: ClientConfig,
    policy: &Arc<Policy>,
    port: Option<u16>,
) -> Result<reqwest::Client, ClientError> {
    let proxy = settings.proxy.as_ref().map(|url| url::Url::parse(url.reveal())).transpose();
    // The settings have been checked.
    let proxy = proxy.ok().flatten();
    let resolver = Resolver {
        policy: Arc::clone(policy),
        port,
        trusted: proxy.as_ref().and_then(|url| url.host_str()).map(str::to_owned),
    };
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("seal-dpf-urlcallback/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(settings.connect_timeout)
        .http2_keep_alive_interval(PING_PAUSE)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(settings.per_destination)
        .connector_layer(MapRequestLayer::new(|request| {
            measure::connecting();
            request
        }))
        .dns_resolver(Arc::new(resolver));
    let builder = match proxy {
        Some(proxy) => builder.proxy(reqwest::Proxy::all(proxy)?),
        // The environment's proxies are none of our business (contract, 6).
        None => builder.no_proxy(),
    };
    Ok(builder.build()?)
}

/// The name has no address, or the system could not find out.
#[derive(Debug, thiserror::Error)]
#[error("the name {name} cannot be resolved: {error}")]
pub struct DnsError {
    name: String,
    error: std::io::Error,
}

/// Looks names up as the system does, and gives only addresses that the policy allows.
struct Resolver {
    policy: Arc<Policy>,
    /// The port that will be connected to, where that is known.
    port: Option<u16>,
    /// The proxy's own name: it may be where receivers may not.
    trusted: Option<String>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, port) = (Arc::clone(&self.policy), self.port);
        let trusted = self.trusted.as_deref() == Some(name.as_str());
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let looked_up = tokio::net::lookup_host((name.as_str(), 0)).await;
            let found: Vec<SocketAddr> = match looked_up.map(Iterator::collect) {
                Ok(found) => found,
                Err(error) => return Err(DnsError { name, error }.into()),
            };
            let mut denied = None;
            let mut allowed = Vec::with_capacity(found.len());
            for address in found {
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
