//! The other end of a connection, in 18 bytes, and the key by which connections are counted.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::io::Peer;

/// A peer's address without unneeded parts, in 18 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompactPeer {
    address: [u8; 16],
    port: u16,
}

/// The key by which connections are counted, in eight bytes: an IPv4 address, or the /64 of an IPv6 customer.
///
/// IPv4 takes the place of the networks in `::/32`, which are not assigned (RFC 4291, section 2.4; RFC 6890).
pub(crate) type AddressKey = [u8; 8];

impl CompactPeer {
    pub(crate) fn new(peer: Peer) -> CompactPeer {
        match peer {
            Peer::Unix => CompactPeer { address: [0; 16], port: 0 },
            Peer::Inet(address) => {
                let ip = match address.ip() {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                CompactPeer { address: ip.octets(), port: address.port() }
            }
        }
    }

    /// Its address; none: it connected over a unix socket.
    pub(crate) fn ip(self) -> Option<IpAddr> {
        let ip = Ipv6Addr::from(self.address);
        (!ip.is_unspecified()).then(|| ip.to_canonical())
    }

    /// The key for limits. A unix socket's peer has an unassigned network, too.
    pub(crate) fn key(self) -> AddressKey {
        let mut key = AddressKey::default();
        match self.ip() {
            None => key.fill(0xff),
            Some(IpAddr::V4(v4)) => key[4..].copy_from_slice(&v4.octets()),
            Some(IpAddr::V6(v6)) => key.copy_from_slice(&v6.octets()[..8]),
        }
        key
    }
}

impl fmt::Display for CompactPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip(), self.port) {
            (None, _) => f.write_str("unix"),
            // A proxy's header seldom has the port.
            (Some(ip), 0) => ip.fmt(f),
            (Some(ip), port) => SocketAddr::new(ip, port).fmt(f),
        }
    }
}

impl fmt::Debug for CompactPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_counted_by_ipv4_address_or_ipv6_network() {
        let check = |address: &str, key: AddressKey, shown: &str| {
            let peer = CompactPeer::new(Peer::Inet(address.parse().unwrap()));
            assert_eq!(peer.key(), key);
            assert_eq!(peer.to_string(), shown);
        };
        check("192.0.2.7:80", [0, 0, 0, 0, 192, 0, 2, 7], "192.0.2.7:80");
        check("192.0.2.7:0", [0, 0, 0, 0, 192, 0, 2, 7], "192.0.2.7");
        check("[::ffff:192.0.2.7]:80", [0, 0, 0, 0, 192, 0, 2, 7], "192.0.2.7:80");
        check("[::1]:80", [0; 8], "[::1]:80");
        check("[2001:db8:1:2:3:4:5:6]:80", [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 2], "[2001:db8:1:2:3:4:5:6]:80");
        let unix = CompactPeer::new(Peer::Unix);
        assert_eq!((unix.ip(), unix.key(), unix.to_string().as_str()), (None, [0xff; 8], "unix"));
    }
}
