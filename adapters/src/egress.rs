//! Where an adapter may connect to: the guard against requests that a setting or a name server turns inward.
//!
//! A name is resolved once per connection and the very addresses that were judged are connected to, so that a
//! second answer cannot lead elsewhere. One bad address among several refuses them all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::lookup_host;
use url::{Host, Url};

use crate::context::EgressPolicy;
use crate::limits::ADDRESSES_MAX;

/// How far an endpoint reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The public internet.
    Public,
    /// Private networks and this machine as well, because the endpoint says so.
    Private,
    /// This machine alone: plain HTTP for tests.
    Loopback,
}

impl Reach {
    /// The reach that an endpoint's flags ask for.
    ///
    /// # Errors
    /// The flag that the policy refuses.
    pub(crate) fn of(
        plain: bool,
        private_network: bool,
        policy: EgressPolicy,
    ) -> Result<Self, &'static str> {
        match (plain, private_network, policy) {
            (true, _, EgressPolicy::PublicOnly) => Err("plain"),
            (false, true, EgressPolicy::PublicOnly) => Err("private_network"),
            (true, _, EgressPolicy::AsFlagged) => Ok(Self::Loopback),
            (false, true, EgressPolicy::AsFlagged) => Ok(Self::Private),
            (false, false, _) => Ok(Self::Public),
        }
    }

    /// Whether an address may be connected to.
    pub(crate) fn permits(self, address: IpAddr) -> bool {
        let place = place(address);
        match self {
            Self::Public => place == Place::Public,
            Self::Private => matches!(place, Place::Public | Place::Private | Place::Loopback),
            Self::Loopback => place == Place::Loopback,
        }
    }

    /// Whether a URL's host may be connected to as far as can be told without asking a name server.
    pub(crate) fn permits_host(self, url: &Url) -> bool {
        match url.host() {
            Some(Host::Ipv4(address)) => self.permits(address.into()),
            Some(Host::Ipv6(address)) => self.permits(address.into()),
            Some(Host::Domain(name)) => {
                let local = name == "localhost" || name.ends_with(".localhost");
                !local || self != Self::Public
            }
            None => false,
        }
    }

    /// The addresses of a host, every one of which may be connected to.
    ///
    /// # Errors
    /// [`EgressError`] when it has none, or one that may not.
    pub(crate) async fn resolve(
        self,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, EgressError> {
        // A URL writes an IPv6 address in brackets, which a name server would be asked for.
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        let found = lookup_host((bare, port))
            .await
            .map_err(|_| EgressError::NoAddress)?;
        let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
        if addresses.is_empty() {
            return Err(EgressError::NoAddress);
        }
        if addresses.iter().all(|address| self.permits(address.ip())) {
            Ok(addresses)
        } else {
            Err(EgressError::Refused)
        }
    }
}

/// Why a host is not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EgressError {
    /// The name has no address.
    #[error("the name has no address")]
    NoAddress,
    /// It has one that this endpoint may not reach.
    #[error("the name has an address that this endpoint may not reach: see private_network")]
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Public,
    Private,
    Loopback,
    /// Never to be connected to: link-local (where clouds keep credentials), multicast, reserved.
    Special,
}

fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(v4) => place_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => place_v4(v4),
            None => place_v6(v6),
        },
    }
}

fn place_v4(a: Ipv4Addr) -> Place {
    let [first, second, third, _] = a.octets();
    if a.is_loopback() {
        return Place::Loopback;
    }
    // 100.64.0.0/10 is shared address space behind a carrier's translation (RFC 6598).
    if a.is_private() || (first == 100 && (64..128).contains(&second)) {
        return Place::Private;
    }
    let special = first == 0
        || first >= 224
        || a.is_link_local()
        || a.is_documentation()
        || (first == 192 && second == 0 && third == 0)
        || (first == 192 && second == 88 && third == 99)
        || (first == 198 && (18..20).contains(&second));
    if special {
        Place::Special
    } else {
        Place::Public
    }
}

fn place_v6(a: Ipv6Addr) -> Place {
    if a.is_loopback() {
        return Place::Loopback;
    }
    if a.is_unique_local() {
        return Place::Private;
    }
    let [first, second, ..] = a.segments();
    // Global unicast is 2000::/3; of it 2001::/23 (Teredo and others) and 2001:db8::/32 are special (RFC 6890).
    let global = first & 0xe000 == 0x2000;
    let special = first == 0x2001 && (second < 0x0200 || second == 0x0db8);
    if global && !special {
        Place::Public
    } else {
        Place::Special
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped, compatible, translated (RFC 6052) or 6to4.
fn embedded(a: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match a.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(v4(high, low))
        }
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(reach: Reach, address: &str) -> bool {
        reach.permits(address.parse().unwrap())
    }

    #[test]
    fn the_public_reach_takes_public_addresses_alone() {
        for good in [
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "2a00:1450::1",
            "172.32.0.1",
            "64:ff9b::808:808",
        ] {
            assert!(permits(Reach::Public, good), "{good}");
        }
        for bad in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "::7f00:1",
        ] {
            assert!(!permits(Reach::Public, bad), "{bad}");
        }
    }

    #[test]
    fn the_private_reach_never_takes_link_local_or_reserved_addresses() {
        for good in [
            "10.0.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "::1",
            "fd00::1",
            "8.8.8.8",
            "100.64.0.1",
        ] {
            assert!(permits(Reach::Private, good), "{good}");
        }
        for bad in [
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "0.0.0.0",
            "::ffff:169.254.169.254",
            "240.0.0.1",
        ] {
            assert!(!permits(Reach::Private, bad), "{bad}");
        }
    }

    #[test]
    fn the_loopback_reach_takes_this_machine_alone() {
        assert!(permits(Reach::Loopback, "127.0.0.1") && permits(Reach::Loopback, "::1"));
        assert!(!permits(Reach::Loopback, "10.0.0.1") && !permits(Reach::Loopback, "8.8.8.8"));
    }

    #[test]
    fn a_policy_refuses_the_flag_it_names() {
        use EgressPolicy::{AsFlagged, PublicOnly};
        assert_eq!(Reach::of(false, false, PublicOnly), Ok(Reach::Public));
        assert_eq!(Reach::of(true, false, PublicOnly), Err("plain"));
        assert_eq!(Reach::of(false, true, PublicOnly), Err("private_network"));
        assert_eq!(Reach::of(false, true, AsFlagged), Ok(Reach::Private));
        assert_eq!(Reach::of(true, true, AsFlagged), Ok(Reach::Loopback));
    }

    #[test]
    fn odd_spellings_of_an_address_are_seen_through() {
        for url in [
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://[::ffff:7f00:1]/",
            "https://localhost/",
        ] {
            let url = Url::parse(url).unwrap();
            assert!(!Reach::Public.permits_host(&url), "{url}");
        }
        assert!(Reach::Public.permits_host(&Url::parse("https://example.org/").unwrap()));
    }

    #[tokio::test]
    async fn a_name_that_leads_inward_is_refused() {
        assert_eq!(
            Reach::Public.resolve("localhost", 443).await,
            Err(EgressError::Refused)
        );
        assert!(
            Reach::Loopback
                .resolve("localhost", 443)
                .await
                .is_ok_and(|a| !a.is_empty())
        );
        assert_eq!(
            Reach::Public.resolve("[::1]", 443).await,
            Err(EgressError::Refused)
        );
    }
}
