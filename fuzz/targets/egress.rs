//! The egress policy: with any networks denied and allowed, an address is denied exactly where
//! a second implementation denies it, however it is written in the URL, and always where it was
//! built by an RFC's rule to carry an IPv4 address that is denied.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arbitrary::Arbitrary;
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use seal_dpf_urlcallback::egress::{DEFAULT_DENY, Denied, Policy};
use seal_dpf_urlcallback_fuzz::networks::{Net, Number, denied, readings};
use url::Url;

#[derive(Debug, Arbitrary)]
enum Address {
    V4 {
        address: u32,
        spelling: Spelling,
    },
    V6(u128),
    /// An IPv6 address that carries this IPv4 address; the filler is the rest of its bits.
    Carrying {
        v4: u32,
        how: How,
        filler: u64,
    },
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Spelling {
    Dotted,
    Decimal,
    Hex,
    OctalParts,
    TwoParts,
    ThreeParts,
    TrailingDot,
    Escaped,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum How {
    Compatible,
    Mapped,
    Translated,
    Nat64,
    Local48,
    Local56,
    Local64,
    Local96,
    SixToFour,
    TeredoServer,
    TeredoClient,
}

#[derive(Debug, Arbitrary)]
enum RawNet {
    V4(u32, u8),
    V6(u128, u8),
    /// The network of this length around the address that is asked for, or around an IPv4
    /// address that it carries.
    Around(u8, u8),
}

#[derive(Debug, Arbitrary)]
struct Input {
    address: Address,
    port: u16,
    https: bool,
    https_only: bool,
    own: Option<(RawNet, u16)>,
    default: bool,
    deny: Vec<RawNet>,
    allow: Vec<RawNet>,
}

fn spelled(address: u32, how: Spelling) -> String {
    let [a, b, c, d] = address.to_be_bytes();
    match how {
        Spelling::Dotted => format!("{a}.{b}.{c}.{d}"),
        Spelling::Decimal => address.to_string(),
        Spelling::Hex => format!("{address:#x}"),
        Spelling::OctalParts => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        Spelling::TwoParts => format!("{a}.{}", address & 0xff_ffff),
        Spelling::ThreeParts => format!("{a}.{b}.{:#X}", address & 0xffff),
        Spelling::TrailingDot => format!("{a}.{b}.{c}.{d}."),
        Spelling::Escaped => format!("{a}%2E{b}%2e{c}.{d}"),
    }
}

/// RFC 6052, 2.2: the address behind a prefix of `length` bits, bits 64 to 71 left out.
fn embedded(v4: u32, length: u32) -> u128 {
    let mut bits = 0x0064_ff9b_0001_u128 << 80;
    let mut at = length;
    for byte in v4.to_be_bytes() {
        if at == 64 {
            at += 8;
        }
        bits |= u128::from(byte) << (120 - at);
        at += 8;
    }
    bits
}

fn carrying(v4: u32, how: How, filler: u64) -> u128 {
    let (low, filler) = (u128::from(v4), u128::from(filler));
    match how {
        How::Compatible => low,
        How::Mapped => (0xffff << 32) | low,
        How::Translated => (0xffff << 48) | low,
        How::Nat64 => (0x64_ff9b << 96) | low,
        How::Local48 => embedded(v4, 48) | (filler & 0xff_ffff),
        How::Local56 => embedded(v4, 56) | (filler & 0xff_ffff),
        How::Local64 => embedded(v4, 64) | (filler & 0xff_ffff),
        How::Local96 => (0x0064_ff9b_0001 << 80) | ((filler & 0xffff_ffff_ffff) << 32) | low,
        How::SixToFour => (0x2002 << 112) | (low << 80) | filler,
        How::TeredoServer => (0x2001 << 112) | (low << 64) | filler,
        How::TeredoClient => (0x2001 << 112) | (filler << 32) | u128::from(!v4),
    }
}

fn address_of(number: Number) -> IpAddr {
    match number {
        Number::V4(bits) => Ipv4Addr::from_bits(bits).into(),
        Number::V6(bits) => Ipv6Addr::from_bits(bits).into(),
    }
}

impl RawNet {
    fn around(&self, asked: &[Number]) -> Net {
        match *self {
            Self::V4(bits, length) => Net::V4(bits, length % 33),
            Self::V6(bits, length) => Net::V6(bits, length % 129),
            Self::Around(which, length) => match asked[usize::from(which) % asked.len()] {
                Number::V4(bits) => Net::V4(bits, length % 33),
                Number::V6(bits) => Net::V6(bits, length % 129),
            },
        }
    }
}

fn as_ipnet(net: Net) -> IpNet {
    let (number, length) = match net {
        Net::V4(bits, length) => (Number::V4(bits), length),
        Net::V6(bits, length) => (Number::V6(bits), length),
    };
    IpNet::new(address_of(number), length).unwrap()
}

fuzz_target!(|input: Input| {
    let (host, number) = match input.address {
        Address::V4 { address, spelling } => (spelled(address, spelling), Number::V4(address)),
        Address::V6(bits) => (format!("[{}]", Ipv6Addr::from_bits(bits)), Number::V6(bits)),
        Address::Carrying { v4, how, filler } => {
            let bits = carrying(v4, how, filler);
            (format!("[{}]", Ipv6Addr::from_bits(bits)), Number::V6(bits))
        }
    };
    let scheme = if input.https { "https" } else { "http" };
    let url = Url::parse(&format!("{scheme}://{host}:{}/", input.port)).expect("it is a URL");

    let asked = readings(number);
    let nets = |raw: &[RawNet]| raw.iter().map(|it| it.around(&asked)).collect::<Vec<_>>();
    let (mut deny, allow) = (nets(&input.deny), nets(&input.allow));
    if input.default {
        deny.extend(DEFAULT_DENY.map(Net::parse));
    }
    let own =
        input.own.map(|(net, port)| SocketAddr::new(as_ipnet(net.around(&asked)).addr(), port));
    // Which addresses the machine has is not known here.
    let own = own.filter(|it| !it.ip().is_unspecified());
    let policy = Policy {
        deny: deny.iter().copied().map(as_ipnet).collect(),
        allow: allow.iter().copied().map(as_ipnet).collect(),
        https_only: input.https_only,
        own,
    };

    let result = policy.check_url(&url);
    let within = |nets: &[Net], it| nets.iter().any(|net: &Net| net.contains(it));
    if input.https_only && !input.https {
        assert_eq!(result, Err(Denied::PlainHttp));
        return;
    }
    let is_own = own.is_some_and(|own| {
        let own_number = Number::from(own.ip().to_canonical());
        own.port() == input.port && asked.iter().any(|it| *it == own_number && !within(&allow, *it))
    });
    let expected = denied(number, &deny, &allow) || is_own;
    assert_eq!(result.is_err(), expected, "{url} {policy:?}");
    assert_eq!(policy.check(address_of(number), Some(input.port)).is_err(), expected);
    if let Err(denied) = result {
        assert!(denied.to_string().contains("egress."), "{denied}");
    }

    // Without the second implementation's help: what was built to carry a denied address.
    if let Address::Carrying { v4, how, .. } = input.address {
        // `::` and `::1` are addresses of their own; addresses of "this network" are none that
        // a gateway of a shorter prefix would be given.
        let nothing = match how {
            How::Compatible => v4 <= 1,
            How::Local48 | How::Local56 | How::Local64 => v4 >> 24 == 0,
            _ => false,
        };
        if !nothing && within(&deny, Number::V4(v4)) && !within(&allow, Number::V4(v4)) {
            assert!(policy.check_url(&url).is_err(), "{url} carries {:?}", Ipv4Addr::from_bits(v4));
        }
    }
});
