//! Which addresses may be called: the settings `egress.*` (docs/settings.md).
//!
//! The policy is applied twice: to a URL with an address, when its event is accepted, and by the
//! resolver of the HTTP client to every address of a name, right before the connection. Therefore a
//! name whose address changes in between (DNS rebinding) is also checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;
use url::{Host, Url};

/// The networks that are denied by default, each with its reason: none of them contains a receiver,
/// and cloud metadata services return credentials.
pub const DEFAULT_DENY: [&str; 12] = [
    "0.0.0.0/8",          // "this network", RFC 1122: reaches the machine itself
    "169.254.0.0/16",     // link-local, RFC 3927, and most clouds' metadata
    "100.100.100.200/32", // Alibaba's metadata
    "168.63.129.16/32",   // Azure's wire server
    "192.0.0.192/32",     // Oracle's metadata
    "224.0.0.0/4",        // multicast, RFC 5771
    "255.255.255.255/32", // broadcast
    "::/128",             // unspecified
    "fe80::/10",          // link-local, RFC 4291
    "fd00:ec2::254/128",  // Amazon's metadata
    "fd20:ce::254/128",   // Google's metadata
    "ff00::/8",           // multicast, RFC 4291
];

/// The egress policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Networks that must not be called.
    pub deny: Vec<IpNet>,
    /// Networks that may be called although a denied one contains them.
    pub allow: Vec<IpNet>,
    /// Whether plain HTTP is denied.
    pub https_only: bool,
    /// Address of this service's API, which is never called: a job must not make the service call
    /// itself.
    pub own: Option<SocketAddr>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            deny: DEFAULT_DENY.iter().filter_map(|net| net.parse().ok()).collect(),
            allow: Vec::new(),
            https_only: false,
            own: None,
        }
    }
}

/// Why an address must not be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A rule denies the network.
    #[error("{address} is in {rule}, which egress.deny denies")]
    Network {
        /// The address.
        address: IpAddr,
        /// The rule.
        rule: IpNet,
    },
    /// It is this service's API.
    #[error("{address} port {port} is this service's own API; only egress.allow lets it be called")]
    OwnApi {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// Plain HTTP is denied.
    #[error("egress.https_only denies plain http")]
    PlainHttp,
}

impl Policy {
    /// Checks the parts of a URL that are known without resolving a name.
    pub fn check_url(&self, url: &Url) -> Result<(), Denied> {
        if self.https_only && url.scheme() != "https" {
            return Err(Denied::PlainHttp);
        }
        let port = url.port_or_known_default();
        // The parser has turned every spelling of an IPv4 address into this one.
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(address.into(), port),
            Some(Host::Ipv6(address)) => self.check(address.into(), port),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    /// Checks an address, and the port if given. An IPv6 address that embeds an IPv4 address must be allowed
    /// as both.
    pub fn check(&self, address: IpAddr, port: Option<u16>) -> Result<(), Denied> {
        let carried = match address {
            IpAddr::V6(v6) => carried_v4(v6),
            IpAddr::V4(_) => Vec::new(),
        };
        for seen_as in std::iter::once(address).chain(carried.into_iter().map(IpAddr::V4)) {
            let within = |nets: &[IpNet]| nets.iter().find(|net| net.contains(&seen_as)).copied();
            if within(&self.allow).is_some() {
                continue;
            }
            if let Some(rule) = within(&self.deny) {
                return Err(Denied::Network { address, rule });
            }
            if let Some(port) = port
                && self.own.is_some_and(|own| own.port() == port && leads_to(seen_as, own.ip()))
            {
                return Err(Denied::OwnApi { address, port });
            }
        }
        Ok(())
    }
}

/// Whether a connection to `address` reaches a listener on `listening`.
fn leads_to(address: IpAddr, listening: IpAddr) -> bool {
    // A connection to the unspecified address goes to this machine.
    if address.is_unspecified() {
        return true;
    }
    let listening = listening.to_canonical();
    if !listening.is_unspecified() {
        return address == listening;
    }
    // It listens on all addresses of the machine; only those can be bound.
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// The IPv4 addresses that an IPv6 address may contain: the one inside an IPv4-mapped, IPv4-compatible,
/// IPv4-translated (RFC 2765), NAT64 (RFC 6052, and RFC 8215's local one, with a prefix of any length),
/// 6to4 (RFC 3056), Teredo (RFC 4380) or ISATAP (RFC 5214) address.
fn carried_v4(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let mut found = match address.segments() {
        // `::` and `::1` do not embed an IPv4 address.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => vec![v4(high, low)],
        [0, 0, 0, 0, 0xffff, 0, high, low] => vec![v4(high, low)],
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => vec![v4(high, low)],
        [0x64, 0xff9b, 1, ..] => {
            let o = address.octets();
            // For prefixes of 48, 56, 64 and 96 bits; the ninth byte is always omitted. If a prefix has
            // another length, the other interpretations begin or end with zeroes.
            [[o[6], o[7], o[9], o[10]], [o[7], o[9], o[10], o[11]], [o[9], o[10], o[11], o[12]]]
                .into_iter()
                .filter(|found| found[0] != 0)
                .chain([[o[12], o[13], o[14], o[15]]])
                .map(Ipv4Addr::from)
                .collect()
        }
        [0x2002, high, low, ..] => vec![v4(high, low)],
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            vec![v4(server_high, server_low), v4(!high, !low)]
        }
        _ => Vec::new(),
    };
    // Each of them may contain an ISATAP address (RFC 5214).
    if let [_, _, _, _, 0 | 0x200, 0x5efe, high, low] = address.segments() {
        found.push(v4(high, low));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &Policy, url: &str) -> Result<(), Denied> {
        policy.check_url(&Url::parse(url).unwrap())
    }

    #[test]
    fn metadata_and_link_local_addresses_are_denied_in_every_spelling() {
        let policy = Policy::default();
        assert_eq!(policy.deny.len(), DEFAULT_DENY.len());
        for host in [
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "0251.0376.0251.0376",
            "169.254.43518",
            "169.254.169.254.",
            "[::ffff:169.254.169.254]",
            "[::169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::a9fe:a9fe]",
            "[64:ff9b:1:a9fe:a9:fe00::]",
            "[64:ff9b:1:a9:fe:a9fe::]",
            "[64:ff9b:1:0:a9:fea9:fe00:0]",
            "[::ffff:0:169.254.169.254]",
            "[2001:0:a9fe:a9fe::1]",
            "[2001:db8::5efe:169.254.169.254]",
            "[2002:a9fe:a9fe::5efe:1.2.3.4]",
            "[2001:0:102:304::5601:5601]",
            "[::ffff:a9fe:a9fe]",
            "[0:0:0:0:0:FFFF:A9FE:A9FE]",
            "0xA9.0xFE.0xA9.0xFE",
            "169.0376.0xa9fe",
            "169%2e254%2e169%2e254",
            "１６９。２５４。１６９。２５４",
            "[2002:a9fe:a9fe::1]",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[fd20:ce::254]",
            "0.0.0.0",
            "0",
            "[::]",
            "224.0.0.1",
            "[ff02::1]",
            "255.255.255.255",
        ] {
            assert!(check(&policy, &format!("http://{host}/")).is_err(), "{host}");
        }
        for host in [
            "127.0.0.1",
            "10.1.2.3",
            "[::1]",
            "192.168.0.1",
            "callbackhost",
            "[64:ff9b::a01:203]",
            "[64:ff9b:1::a01:203]",
            "[2001:db8::1]",
            "[2002:a01:203::1]",
        ] {
            assert_eq!(check(&policy, &format!("http://{host}/")), Ok(()), "{host}");
        }
    }

    #[test]
    fn an_allow_entry_wins_over_a_deny_entry_and_the_refusal_names_the_rule() {
        let mut policy = Policy { deny: vec!["10.0.0.0/8".parse().unwrap()], ..Policy::default() };
        let error = check(&policy, "http://10.1.2.3/").unwrap_err().to_string();
        assert!(error.contains("10.1.2.3") && error.contains("10.0.0.0/8"), "{error}");
        policy.allow.push("10.1.0.0/16".parse().unwrap());
        assert_eq!(check(&policy, "http://10.1.2.3/"), Ok(()));
    }

    #[test]
    fn the_services_own_api_is_denied_unless_it_is_allowed() {
        let own = |text: &str| Some(text.parse().unwrap());
        let mut policy = Policy { own: own("127.0.0.1:9126"), ..Policy::default() };
        for url in
            ["http://127.0.0.1:9126/", "http://2130706433:9126/", "http://[::ffff:127.0.0.1]:9126/"]
        {
            assert!(matches!(check(&policy, url), Err(Denied::OwnApi { .. })), "{url}");
        }
        for url in ["http://127.0.0.1:9127/", "http://127.0.0.2:9126/", "http://[::1]:9126/"] {
            assert_eq!(check(&policy, url), Ok(()), "{url}");
        }
        // Nothing else forbids those that mean this machine.
        policy.deny.clear();
        for url in [
            "http://0.0.0.0:9126/",
            "http://0:9126/",
            "http://[::]:9126/",
            "http://[::ffff:0.0.0.0]:9126/",
            "http://[64:ff9b::]:9126/",
            "http://[::ffff:0:0:0]:9126/",
        ] {
            assert!(matches!(check(&policy, url), Err(Denied::OwnApi { .. })), "{url}");
        }
        assert_eq!(check(&policy, "http://0.0.0.0:9127/"), Ok(()));
        policy.own = own("[::ffff:127.0.0.1]:9126");
        assert!(check(&policy, "http://127.0.0.1:9126/").is_err());
        policy.own = own("0.0.0.0:80");
        for url in ["http://127.0.0.1/", "http://127.1.2.3/", "http://[::1]/"] {
            assert!(matches!(check(&policy, url), Err(Denied::OwnApi { .. })), "{url}");
        }
        assert_eq!(check(&policy, "http://192.0.2.1/"), Ok(()));
        policy.allow.push("127.0.0.0/8".parse().unwrap());
        assert_eq!(check(&policy, "http://127.0.0.1/"), Ok(()));
    }

    #[test]
    fn https_only_denies_plain_http() {
        let policy = Policy { https_only: true, ..Policy::default() };
        assert_eq!(check(&policy, "http://host/"), Err(Denied::PlainHttp));
        assert_eq!(check(&policy, "https://host/"), Ok(()));
    }

    #[test]
    fn a_service_on_all_addresses_is_denied_at_each_of_them() {
        let own = Some("0.0.0.0:9126".parse().unwrap());
        let policy = Policy { deny: Vec::new(), own, ..Policy::default() };
        // If this machine has an address other than loopback, an outgoing socket has it.
        let way_out = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            socket.connect("192.0.2.1:9")?;
            socket.local_addr()
        });
        for ip in way_out.iter().map(|it| it.ip()).chain([[127, 0, 0, 1].into()]) {
            assert_eq!(
                policy.check(ip, Some(9126)),
                Err(Denied::OwnApi { address: ip, port: 9126 })
            );
            assert_eq!(policy.check(ip, Some(9127)), Ok(()));
        }
        assert_eq!(policy.check([192, 0, 2, 1].into(), Some(9126)), Ok(()));
    }
}
