//! Which addresses may be checked. Asked twice: when a node is written, and again when a probe connects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::invalid::{Invalid, quoted};

/// Parses the address of a node: an IP literal, never a name, in the one form that has no twin.
pub fn parse(input: &str) -> Result<IpAddr, Invalid> {
    let address: IpAddr = input.parse().map_err(|_| {
        Invalid::new(format!(
            "{} is no IP address: write a literal like `127.0.0.1` or `::1` (names are refused)",
            quoted(input)
        ))
    })?;
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(Invalid::new(format!(
            "{} is an IPv4 address in IPv6 clothes: write `{v4}`",
            quoted(input)
        )));
    }
    refuse_always_forbidden(address)?;
    Ok(address)
}

/// Networks that no checker may ever touch, whoever asks.
fn refuse_always_forbidden(address: IpAddr) -> Result<(), Invalid> {
    let kind = match address {
        IpAddr::V4(v4) if v4.is_unspecified() || v4.octets()[0] == 0 => "the unspecified network",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_link_local() => "a link-local address, where metadata services live",
        IpAddr::V4(v4) if v4 == Ipv4Addr::new(100, 100, 100, 200) => "a metadata service",
        IpAddr::V6(v6) if v6.is_unspecified() => "the unspecified address",
        IpAddr::V6(v6) if v6.is_multicast() => "a multicast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
        IpAddr::V6(v6) if v6 == Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254) => "a metadata service",
        // `::a.b.c.d` is the deprecated IPv4-compatible form: another spelling of an IPv4 address.
        IpAddr::V6(v6) if !v6.is_loopback() && v6.segments()[..6] == [0; 6] => {
            "an IPv4-compatible IPv6 address"
        }
        _ => return Ok(()),
    };
    Err(Invalid::new(format!("{address} is refused: it is {kind}, and those are never checked")))
}

/// What this server may probe, beyond what nobody may.
#[derive(Debug, Clone, Default)]
pub struct TargetPolicy {
    /// Whether nodes may live on loopback: only where JCM itself listens on loopback.
    pub loopback_allowed: bool,
    /// Where JCM's own servers listen: a checker that probes them would load and confuse its own kind.
    pub own: Vec<SocketAddr>,
}

impl TargetPolicy {
    /// Whether a probe may connect there.
    pub fn permit(&self, target: SocketAddr) -> Result<(), Invalid> {
        refuse_always_forbidden(target.ip().to_canonical())?;
        if target.ip().is_loopback() && !self.loopback_allowed {
            return Err(Invalid::new(format!(
                "{} is refused: nodes on loopback are allowed only where JCM itself listens on loopback",
                target.ip()
            )));
        }
        if self.own.contains(&target) {
            return Err(Invalid::new(format!("{target} is refused: JCM itself listens there")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_addresses_are_refused_in_every_spelling() {
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "239.1.2.3",
            "169.254.169.254",
            "100.100.100.200",
            "::",
            "ff02::1",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::ffff:127.0.0.1",
            "::127.0.0.2",
            "localhost",
            "example.com",
            "127.1",
            "127.0.0.1:80",
            "[::1]",
            "0x7f000001",
            " 127.0.0.1",
            "",
        ] {
            assert!(parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["127.0.0.1", "127.255.0.9", "::1", "10.1.2.3", "2001:db8::1"] {
            assert!(parse(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn a_server_does_not_check_itself_nor_strangers_loopback() {
        let own: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let policy = TargetPolicy { loopback_allowed: true, own: vec![own] };
        assert!(policy.permit(own).is_err());
        assert!(policy.permit("127.0.0.1:8081".parse().unwrap()).is_ok());
        assert!(policy.permit("[::ffff:169.254.169.254]:80".parse().unwrap()).is_err());
        assert!(TargetPolicy::default().permit("127.0.0.1:8081".parse().unwrap()).is_err());
    }
}
