//! The HTTP clients, pooled, and which destination uses which.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use url::Url;

use super::{
    connecting::{ClientError, Common, Connecting, Pool},
    names::{Names, NoLookup},
    progress::Progress,
    section::{self, Section},
};
use crate::{
    callback::{Destination, PatternMap, SecretUrl},
    egress::{Denied, Policy},
    tls::PairFiles,
};

/// Maximum number of destinations with their own client, after their connections were renewed.
const MAX_RENEWED: usize = 256;

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
    /// What differs for some destinations.
    pub sections: PatternMap<section::Settings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle_per_destination: 16,
            proxy: None,
            ca_file: None,
            identity: None,
            sections: PatternMap::default(),
        }
    }
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
/// There is one client for all destinations, and one for each section of the settings with certificates or a
/// connection time-out of its own. A destination whose connections were renewed has its own client.
#[derive(Debug)]
pub struct Clients {
    common: Common,
    /// The first is for all destinations without a separate one.
    connecting: Vec<Connecting>,
    sections: PatternMap<Section>,
    own_port: Option<u16>,
    /// Clients of destinations whose connections were renewed, and when.
    renewed: Mutex<HashMap<Destination, (Instant, reqwest::Client)>>,
}

impl Clients {
    /// Reads the files and builds the clients.
    pub fn build(settings: &Settings, policy: Arc<Policy>) -> Result<Self, ClientError> {
        let own_port = policy.own.map(|own| own.port());
        let common = Common {
            policy,
            names: Names::new(),
            proxy: settings.proxy.clone(),
            idle_per_destination: settings.idle_per_destination,
        };
        let (ca_file, identity) = (settings.ca_file.as_deref(), settings.identity.as_ref());
        let general = Connecting::new(&common, settings.connect_timeout, ca_file, identity)?;
        let mut connecting = vec![general];
        let sections = settings.sections.try_map(|pattern, section| {
            let mut at = 0;
            if section.connects_otherwise() {
                at = connecting.len();
                connecting.push(Connecting::new(
                    &common,
                    section.connect_timeout.unwrap_or(settings.connect_timeout),
                    section.ca_file.as_deref().or(ca_file),
                    section.identity.as_ref().or(identity),
                )?);
            }
            let pattern = || Box::new(pattern.clone());
            Section::read(section, at)
                .map_err(|error| ClientError::Section { pattern: pattern(), error })
        })?;
        Ok(Self { common, connecting, sections, own_port, renewed: Mutex::default() })
    }

    /// The section of the settings that applies to a destination.
    pub fn section(&self, destination: &Destination) -> Option<&Section> {
        self.sections.get(destination)
    }

    fn connecting(&self, destination: &Destination) -> &Connecting {
        &self.connecting[self.section(destination).map_or(0, |section| section.connecting)]
    }

    /// The client for a URL of this destination.
    pub fn of(&self, url: &Url, destination: &Destination) -> Result<reqwest::Client, ClientError> {
        let renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = renewed.get(destination) {
            return Ok(client.clone());
        }
        drop(renewed);
        let connecting = self.connecting(destination);
        match self.own(url) {
            Some(port) => connecting.own_port(&self.common, port),
            None => Ok(connecting.general.clone()),
        }
    }

    /// The port of the URL, if it is the one of the service's API.
    fn own(&self, url: &Url) -> Option<u16> {
        self.own_port.filter(|own| url.port_or_known_default() == Some(*own))
    }

    /// A client that always opens a new connection.
    pub fn fresh(
        &self,
        url: &Url,
        destination: &Destination,
    ) -> Result<reqwest::Client, ClientError> {
        self.another(url, destination, Pool::None)
    }

    /// Renews the connections to a destination: its next attempts open new ones. Does nothing if they
    /// were renewed less than `pause` ago.
    pub fn renew(
        &self,
        url: &Url,
        destination: &Destination,
        pause: Duration,
    ) -> Result<(), ClientError> {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let recent = |at: &Instant| now.duration_since(*at) < pause;
        if renewed.get(destination).is_some_and(|(at, _)| recent(at)) {
            return Ok(());
        }
        let client = self.another(url, destination, Pool::Kept)?;
        if renewed.len() >= MAX_RENEWED {
            let oldest = renewed.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(destination, _)| destination.clone()) {
                renewed.remove(&oldest);
            }
        }
        renewed.insert(destination.clone(), (now, client));
        Ok(())
    }

    fn another(
        &self,
        url: &Url,
        destination: &Destination,
        pool: Pool,
    ) -> Result<reqwest::Client, ClientError> {
        self.connecting(destination).another(&self.common, self.own(url), pool)
    }

    /// Checks a URL of this destination. With a proxy, the proxy resolves the name. If the name can also be
    /// resolved here, all its addresses must be allowed; the proxy may resolve it to others.
    pub async fn check(&self, url: &Url, destination: &Destination) -> Result<(), CheckError> {
        let Common { policy, names, proxy, .. } = &self.common;
        policy.check_url(url)?;
        if proxy.is_none() {
            return Ok(());
        }
        if url.scheme() == "https" && matches!(url.host(), Some(url::Host::Ipv6(_))) {
            return Err(CheckError::Unsupported);
        }
        if let Some(url::Host::Domain(name)) = url.host() {
            let limit = self.connecting(destination).timeout;
            let found = match names.look_up(name, limit, &Progress::current()).await {
                Ok(found) => found,
                Err(error) => match error.downcast::<NoLookup>() {
                    Ok(busy) => return Err((*busy).into()),
                    Err(_) => return Ok(()),
                },
            };
            for address in found.iter() {
                policy.check(address.ip(), url.port_or_known_default())?;
            }
        }
        Ok(())
    }
}
