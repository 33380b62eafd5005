//! Which addresses may be reached.
//!
//! The author of a pod chooses the host of its image, so for a host that no Registry object names an address is only reached when it is public: globally
//! routable unicast. Hosts of Registry objects may be private, but nobody's registry is link-local, multicast or a cloud's metadata service.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

/// A range of addresses in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    network: IpAddr,
    prefix: u8,
}

/// Not CIDR notation.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a range of addresses such as 10.96.0.0/12")]
pub struct RangeError(String);

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let wrong = || RangeError(text.chars().take(64).collect());
        let (network, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let network: IpAddr = network.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if prefix <= if network.is_ipv4() { 32 } else { 128 } { Ok(Self { network, prefix }) } else { Err(wrong()) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix)
    }
}

impl AddressRange {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { network: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Self {
        Self { network: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix }
    }

    const fn one(address: IpAddr) -> Self {
        Self { network: address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether an address lies in it. An address of the other family never does.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |left: u128, right: u128, width: u8| {
            let rest = u32::from(width.saturating_sub(self.prefix));
            left.checked_shr(rest).unwrap_or(0) == right.checked_shr(rest).unwrap_or(0)
        };
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => same(u32::from(network).into(), u32::from(address).into(), 32),
            (IpAddr::V6(network), IpAddr::V6(address)) => same(network.into(), address.into(), 128),
            _ => false,
        }
    }
}

/// What kind of address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Globally routable unicast.
    Public,
    /// Private, loopback, shared or for special uses: for hosts of Registry objects.
    Private,
    /// Nobody's registry.
    Never,
}

/// Addresses at which clouds answer whoever asks with credentials of the machine.
const METADATA: [AddressRange; 6] = [
    AddressRange::one(IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200))), // Alibaba
    AddressRange::one(IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16))),   // Azure's host agent
    AddressRange::one(IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192))),     // Oracle
    AddressRange::one(IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254))), // AWS
    AddressRange::one(IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254))), // Google
    AddressRange::v4(169, 254, 0, 0, 16),                             // everybody else, and link-local at large
];

/// IANA's special-purpose registry, as far as it is not globally reachable.
const SPECIAL_V4: [AddressRange; 13] = [
    AddressRange::v4(10, 0, 0, 0, 8),
    AddressRange::v4(100, 64, 0, 0, 10),
    AddressRange::v4(127, 0, 0, 0, 8),
    AddressRange::v4(172, 16, 0, 0, 12),
    AddressRange::v4(192, 0, 0, 0, 24),
    AddressRange::v4(192, 0, 2, 0, 24),
    AddressRange::v4(192, 31, 196, 0, 24),
    AddressRange::v4(192, 52, 193, 0, 24),
    AddressRange::v4(192, 88, 99, 0, 24),
    AddressRange::v4(192, 168, 0, 0, 16),
    AddressRange::v4(198, 18, 0, 0, 15),
    AddressRange::v4(198, 51, 100, 0, 24),
    AddressRange::v4(203, 0, 113, 0, 24),
];

/// Within 2000::/3, what is not reached as ordinary unicast: protocol assignments with Teredo, documentation, 6to4.
const SPECIAL_V6: [AddressRange; 4] = [
    AddressRange::v6(0x2001, 0, 0, 23),
    AddressRange::v6(0x2001, 0x0db8, 0, 32),
    AddressRange::v6(0x2002, 0, 0, 16),
    AddressRange::v6(0x3fff, 0, 0, 20),
];

/// Tells what kind of address it is. What carries an IPv4 address is what that address is.
pub(super) fn kind(address: IpAddr) -> Kind {
    if METADATA.iter().any(|range| range.contains(address)) {
        return Kind::Never;
    }
    match address {
        IpAddr::V4(v4) => {
            if v4.octets()[0] == 0 || v4.octets()[0] >= 224 {
                Kind::Never
            } else if SPECIAL_V4.iter().any(|range| range.contains(address)) {
                Kind::Private
            } else {
                Kind::Public
            }
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = carried(v6) {
                kind(IpAddr::V4(v4))
            } else if v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast() {
                Kind::Never
            } else if AddressRange::v6(0x2000, 0, 0, 3).contains(address) && !SPECIAL_V6.iter().any(|range| range.contains(address)) {
                Kind::Public
            } else {
                Kind::Private
            }
        }
    }
}

/// The IPv4 address in an IPv4-mapped, IPv4-compatible or NAT64 address.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [prefix @ .., high, low] = address.segments();
    let mapped = prefix == [0, 0, 0, 0, 0, 0xffff] || (prefix == [0; 6] && high != 0);
    let nat64 = prefix == [0x0064, 0xff9b, 0, 0, 0, 0];
    (mapped || nat64).then(|| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

/// Which addresses a host may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rules {
    /// Public ones, outside the cluster's ranges.
    Public,
    /// Private ones too: the host has a Registry object.
    Listed,
}

impl Rules {
    /// Whether an address may be reached under these rules.
    pub(super) fn permit(self, address: IpAddr, cluster: &[AddressRange]) -> bool {
        match (self, kind(address)) {
            (_, Kind::Never) | (Self::Public, Kind::Private) => false,
            (Self::Listed, _) => true,
            (Self::Public, Kind::Public) => !cluster.iter().any(|range| range.contains(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_its_kind() {
        let cases = [
            ("1.1.1.1", Kind::Public),
            ("20.43.7.1", Kind::Public),
            ("100.63.255.255", Kind::Public),
            ("100.128.0.0", Kind::Public),
            ("172.15.255.255", Kind::Public),
            ("172.32.0.0", Kind::Public),
            ("223.255.255.255", Kind::Public),
            ("10.0.0.1", Kind::Private),
            ("100.64.0.1", Kind::Private),
            ("127.0.0.1", Kind::Private),
            ("127.255.255.254", Kind::Private),
            ("172.16.0.1", Kind::Private),
            ("172.31.255.255", Kind::Private),
            ("192.168.1.1", Kind::Private),
            ("192.0.2.7", Kind::Private),
            ("198.18.0.1", Kind::Private),
            ("198.19.255.255", Kind::Private),
            ("198.51.100.1", Kind::Private),
            ("203.0.113.9", Kind::Private),
            ("0.0.0.0", Kind::Never),
            ("0.1.2.3", Kind::Never),
            ("169.254.169.254", Kind::Never),
            ("169.254.0.1", Kind::Never),
            ("100.100.100.200", Kind::Never),
            ("168.63.129.16", Kind::Never),
            ("192.0.0.192", Kind::Never),
            ("224.0.0.1", Kind::Never),
            ("240.0.0.1", Kind::Never),
            ("255.255.255.255", Kind::Never),
            ("2606:4700:4700::1111", Kind::Public),
            ("2a00:1450:4001::200e", Kind::Public),
            ("64:ff9b::101:101", Kind::Public),
            ("::1", Kind::Private),
            ("fd00::1", Kind::Private),
            ("fc00::1", Kind::Private),
            ("fec0::1", Kind::Private),
            ("2001:db8::1", Kind::Private),
            ("3fff::1", Kind::Private),
            ("2002:a00:1::1", Kind::Private),
            ("2001::1", Kind::Private),
            ("64:ff9b:1::1", Kind::Private),
            ("::ffff:10.0.0.1", Kind::Private),
            ("::127.0.0.1", Kind::Private),
            ("64:ff9b::a00:1", Kind::Private),
            ("::ffff:169.254.169.254", Kind::Never),
            ("64:ff9b::a9fe:a9fe", Kind::Never),
            ("::", Kind::Never),
            ("fe80::1", Kind::Never),
            ("ff02::1", Kind::Never),
            ("fd00:ec2::254", Kind::Never),
            ("fd20:ce::254", Kind::Never),
        ];
        for (address, expected) in cases {
            assert_eq!(kind(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_listed_host_may_be_private_and_no_host_may_be_the_metadata_service() {
        let cluster = ["20.0.0.0/14".parse().unwrap()];
        let cases = [
            ("1.1.1.1", true, true),
            ("20.1.2.3", false, true),
            ("20.4.0.0", true, true),
            ("10.0.0.1", false, true),
            ("127.0.0.1", false, true),
            ("169.254.169.254", false, false),
        ];
        for (address, public, listed) in cases {
            let address = address.parse().unwrap();
            assert_eq!(Rules::Public.permit(address, &cluster), public, "{address}");
            assert_eq!(Rules::Listed.permit(address, &cluster), listed, "{address}");
        }
    }

    #[test]
    fn ranges_are_read_and_compared_to_the_bit() {
        let range: AddressRange = "10.96.0.0/12".parse().unwrap();
        assert!(range.contains("10.111.255.255".parse().unwrap()) && !range.contains("10.112.0.0".parse().unwrap()));
        let all: AddressRange = "::/0".parse().unwrap();
        assert!(all.contains("fd00::1".parse().unwrap()) && !all.contains("1.1.1.1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<AddressRange>().unwrap().contains("1.1.1.1".parse().unwrap()));
        assert_eq!(range.to_string(), "10.96.0.0/12");
        for wrong in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1", ""] {
            assert_eq!(wrong.parse::<AddressRange>(), Err(RangeError(wrong.to_owned())), "{wrong}");
        }
    }
}
