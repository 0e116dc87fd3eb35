//! Which peers are trusted to name the client that they forward. Independent of headers and connections.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// One value of `--trusted-proxy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// Peers of this network.
    Network(IpNet),
    /// Every process that may open a unix socket on which the server listens.
    Unix,
}

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<TrustedProxy, String> {
        if text == "unix" {
            return Ok(TrustedProxy::Unix);
        }
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse().map_err(|_| {
                "allowed is an address, a network such as 10.0.0.0/8 or 2001:db8::/32, or unix".to_owned()
            })?,
        };
        match network.trunc() {
            truncated if truncated == network => Ok(TrustedProxy::Network(network)),
            truncated => Err(format!(
                "the address has bits beyond its prefix length; write {truncated}, or the address without a length"
            )),
        }
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustedProxy::Network(network) if network.prefix_len() == network.max_prefix_len() => network.addr().fmt(f),
            TrustedProxy::Network(network) => network.fmt(f),
            TrustedProxy::Unix => f.write_str("unix"),
        }
    }
}

/// All trusted proxies; none by default.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<TrustedProxy>);

impl TrustedProxies {
    /// Trusts these.
    pub fn new(proxies: Vec<TrustedProxy>) -> TrustedProxies {
        TrustedProxies(proxies)
    }

    /// True when no peer is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if the peer is trusted; `None` is a peer on a unix socket.
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        self.0.iter().any(|proxy| match (proxy, peer) {
            (TrustedProxy::Network(network), Some(address)) => network.contains(&address.to_canonical()),
            (TrustedProxy::Unix, None) => true,
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_strictly() {
        let read = |text: &str| text.parse::<TrustedProxy>().map(|proxy| proxy.to_string());
        for good in ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1", "0.0.0.0/0", "unix"] {
            assert_eq!(read(good), Ok(good.to_owned()));
        }
        assert_eq!(read("192.0.2.7/32"), Ok("192.0.2.7".to_owned()));
        assert!(read("10.1.2.3/8").unwrap_err().contains("10.0.0.0/8"));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/", "proxy.example", "unix:/run/x", "[::1]"] {
            assert!(read(bad).unwrap_err().contains("allowed is"), "{bad}");
        }
    }

    #[test]
    fn only_listed_proxies_are_trusted() {
        let trusted = TrustedProxies::new(["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().unwrap()).into());
        let check = |address: &str, expected: bool| {
            assert_eq!(trusted.trusts(Some(address.parse().unwrap())), expected, "{address}");
        };
        check("10.255.0.1", true);
        check("::ffff:10.0.0.1", true);
        check("11.0.0.1", false);
        check("2001:db8:ffff::1", true);
        check("2001:db9::1", false);
        assert!(!trusted.trusts(None));
        assert!(TrustedProxies::new(vec![TrustedProxy::Unix]).trusts(None));
        assert!(!TrustedProxies::default().trusts(Some("127.0.0.1".parse().unwrap())));
    }
}
