//! The one HTTP client of the service: pooled, without redirects, retries, cookies or
//! decompression of its own, and with a resolver that enforces the egress policy.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::PrivateKeyDer};
use tower::util::MapRequestLayer;
use url::Url;

use crate::{
    egress::{Denied, Policy},
    measure,
};

/// How long a connection without work is kept. Servers close theirs after 5 s to 75 s; one
/// that we keep too long costs nothing but a look when it is used again.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the client is made of.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// How long one connection may take to come about, TLS included.
    pub connect_timeout: Duration,
    /// How many idle connections to one destination are kept.
    pub per_destination: usize,
    /// A proxy for everything (`egress.proxy`).
    pub proxy: Option<url::Url>,
    /// Certificates that are trusted beside the system's (`tls.ca_file`).
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Our own certificate and its key (`tls.client_cert_file`, `tls.client_key_file`).
    pub identity: Option<Arc<Identity>>,
}

/// A client certificate. Its Debug output does not show the key.
pub struct Identity {
    /// The certificate, and those between it and its root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} certificates, key ***)", self.chain.len())
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates do not fit together.
    #[error("the TLS settings do not work: {0}")]
    Tls(#[from] rustls::Error),
    /// The client library refused a setting.
    #[error("the HTTP client cannot be made: {0}")]
    Client(#[from] reqwest::Error),
}

/// The clients of the service: one for everything, and one for the port that its own API
/// listens at. What a resolver is asked does not say the port, so the second one's resolver
/// knows it.
#[derive(Debug)]
pub struct Clients {
    general: reqwest::Client,
    own_port: Option<(u16, reqwest::Client)>,
    policy: Arc<Policy>,
    proxied: bool,
}

impl Clients {
    /// Makes them.
    pub fn build(settings: &Settings, policy: Arc<Policy>) -> Result<Self, ClientError> {
        let tls = tls(settings)?;
        let own_port = policy.own.map(|own| own.port());
        let own_port = own_port
            .map(|port| {
                Ok::<_, ClientError>((port, make(settings, tls.clone(), &policy, Some(port))?))
            })
            .transpose()?;
        let general = make(settings, tls, &policy, None)?;
        Ok(Self { general, own_port, policy, proxied: settings.proxy.is_some() })
    }

    /// The client for a URL.
    pub fn of(&self, url: &Url) -> &reqwest::Client {
        match &self.own_port {
            Some((port, client)) if url.port_or_known_default() == Some(*port) => client,
            _ => &self.general,
        }
    }

    /// Whether the URL may be called. Through a proxy it is the proxy that resolves the name,
    /// so where the name is known here too, all its addresses have to be allowed; the proxy
    /// may know others.
    pub async fn check(&self, url: &Url) -> Result<(), Denied> {
        self.policy.check_url(url)?;
        if self.proxied
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

/// Makes a client.
pub fn build(settings: &Settings, policy: &Arc<Policy>) -> Result<reqwest::Client, ClientError> {
    make(settings, tls(settings)?, policy, None)
}

fn make(
    settings: &Settings,
    tls: ClientConfig,
    policy: &Arc<Policy>,
    port: Option<u16>,
) -> Result<reqwest::Client, ClientError> {
    // With a proxy, all that is resolved here is the proxy's own name.
    let policy = settings.proxy.is_none().then(|| Arc::clone(policy));
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("seal-dpf-urlcallback/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(settings.per_destination)
        .connector_layer(MapRequestLayer::new(|request| {
            measure::connecting();
            request
        }))
        .dns_resolver(Arc::new(Resolver { policy, port }));
    let builder = match &settings.proxy {
        Some(proxy) => builder.proxy(reqwest::Proxy::all(proxy.clone())?),
        // The environment's proxies are none of our business (contract, 6).
        None => builder.no_proxy(),
    };
    Ok(builder.build()?)
}

/// TLS 1.2 and up, the system's roots and the extra ones.
fn tls(settings: &Settings) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(error.message = %error, "a system root certificate cannot be read");
    }
    roots.add_parsable_certificates(system.certs);
    for certificate in &settings.extra_roots {
        roots.add(certificate.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match &settings.identity {
        Some(identity) => {
            config.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
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
    policy: Option<Arc<Policy>>,
    /// The port that will be connected to, where that is known.
    port: Option<u16>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, port) = (self.policy.clone(), self.port);
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
                let verdict =
                    policy.as_ref().map_or(Ok(()), |policy| policy.check(address.ip(), port));
                match verdict {
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
