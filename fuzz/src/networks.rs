//! Which addresses are denied, by plain arithmetic on numbers: no list of octets, segments or
//! network types, so that it shares no mistake with `egress`.

use std::net::IpAddr;

/// A network: its address, and how many leading bits of it count.
#[derive(Debug, Clone, Copy)]
pub enum Net {
    V4(u32, u8),
    V6(u128, u8),
}

/// An address as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    V4(u32),
    V6(u128),
}

impl From<IpAddr> for Number {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6(v6.to_bits()),
        }
    }
}

impl Net {
    /// Reads `a.b.c.d/n` or `a::b/n`.
    pub fn parse(text: &str) -> Self {
        let (address, length) = text.split_once('/').unwrap();
        let length = length.parse().unwrap();
        match Number::from(address.parse::<IpAddr>().unwrap()) {
            Number::V4(number) => Self::V4(number, length),
            Number::V6(number) => Self::V6(number, length),
        }
    }

    pub fn contains(self, address: Number) -> bool {
        match (self, address) {
            (Self::V4(net, length), Number::V4(address)) => {
                (net ^ address).checked_shr(32 - u32::from(length)).unwrap_or(0) == 0
            }
            (Self::V6(net, length), Number::V6(address)) => {
                (net ^ address).checked_shr(128 - u32::from(length)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The address itself and every IPv4 address that it carries.
pub fn readings(address: Number) -> Vec<Number> {
    let mut found = vec![address];
    let Number::V6(bits) = address else { return found };
    // The 32 bits that end `low` bits before the address does.
    let at = |low: u32| (bits >> low) as u32;
    let begins = |text: &str| Net::parse(text).contains(address);
    let mut add = |number: u32| found.push(Number::V4(number));
    // RFC 4291, 2.5.5.1; the unspecified address and loopback are none of these.
    if begins("::/96") && bits > 1 {
        add(at(0));
    }
    // RFC 4291, 2.5.5.2; RFC 2765, 2.1; RFC 6052, 2.1.
    if begins("::ffff:0:0/96") || begins("::ffff:0:0:0/96") || begins("64:ff9b::/96") {
        add(at(0));
    }
    // RFC 3056, 2.
    if begins("2002::/16") {
        add(at(80));
    }
    // RFC 4380, 4: the server, and the client with its bits inverted.
    if begins("2001::/32") {
        add(at(64));
        add(!at(0));
    }
    // RFC 5214, 6.1, with the bit that says whether it is unique in the world, or without.
    if at(32) & !0x0200_0000 == 0x5efe {
        add(at(0));
    }
    // RFC 8215 with RFC 6052, 2.2: bits 64 to 71 are left out, whatever the prefix's length.
    // The readings for a shorter prefix than the true one begin with zeroes and mean nothing.
    if begins("64:ff9b:1::/48") {
        let without = ((bits >> 64) << 56) | (bits & ((1 << 56) - 1));
        for length in [48, 56, 64] {
            let number = (without >> (120 - 32 - length)) as u32;
            if number >> 24 != 0 {
                add(number);
            }
        }
        add(at(0));
    }
    found
}

/// Whether the address must not be called.
pub fn denied(address: Number, deny: &[Net], allow: &[Net]) -> bool {
    let within = |nets: &[Net], address| nets.iter().any(|net| net.contains(address));
    readings(address).into_iter().any(|it| !within(allow, it) && within(deny, it))
}
