//! The text by which the facade names a node: `127.0.0.1|HTTP:8080` or `127.0.0.1|HTTP:8080|TCP:9090`.

use std::net::IpAddr;

use jcm_model::Invalid;
use jcm_model::invalid::quoted;

use super::word::{Port, Proto};

/// Longest spec: an address and two ports are far shorter.
const SPEC_BYTES_MAX: usize = 256;

/// A node's spec. It has at least one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) address: IpAddr,
    pub(super) ports: Vec<(Proto, Port)>,
}

impl Spec {
    /// Reads a spec without regard to case.
    pub(super) fn parse(input: &str) -> Result<Self, Invalid> {
        let refused = || {
            Invalid::new(format!(
                "{} is refused: write a node like `127.0.0.1|HTTP:8080` or `127.0.0.1|HTTP:8080|TCP:9090`",
                quoted(input)
            ))
        };
        if input.len() > SPEC_BYTES_MAX {
            return Err(refused());
        }
        let mut parts = input.trim().split('|');
        let address = parts.next().and_then(|text| text.parse().ok()).ok_or_else(refused)?;
        let port = |text: &str| {
            let (proto, number) = text.split_once(':')?;
            Some((Proto::parse(proto)?, Port::from_number(number.parse().ok()?)?))
        };
        let ports: Vec<_> = parts.map(port).collect::<Option<_>>().ok_or_else(refused)?;
        if ports.is_empty() {
            return Err(refused());
        }
        Ok(Self { address, ports })
    }
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)?;
        for (proto, port) in &self.ports {
            write!(f, "|{}:{port}", proto.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn specs() -> impl Strategy<Value = Spec> {
        let address =
            prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u16; 8]>().prop_map(IpAddr::from)];
        let port = (any::<bool>(), 1..=u16::MAX)
            .prop_map(|(http, port)| (if http { Proto::Http } else { Proto::Tcp }, Port(port)));
        (address, prop::collection::vec(port, 1..4)).prop_map(|(address, ports)| Spec { address, ports })
    }

    proptest! {
        #[test]
        fn a_spec_is_read_as_it_is_written(spec in specs()) {
            prop_assert_eq!(&Spec::parse(&spec.to_string()).unwrap(), &spec);
            prop_assert_eq!(&Spec::parse(&spec.to_string().to_uppercase()).unwrap(), &spec);
            prop_assert_eq!(&Spec::parse(&spec.to_string().to_lowercase()).unwrap(), &spec);
        }

        #[test]
        fn no_text_is_too_much(input in "\\PC*") {
            let _ = Spec::parse(&input);
        }

        #[test]
        fn what_looks_like_a_spec_is_read_or_refused(input in "[0-9a-fA-F.:|htpcHTPC-]{0,40}") {
            if let Ok(spec) = Spec::parse(&input) {
                prop_assert_eq!(Spec::parse(&spec.to_string()).unwrap(), spec);
            }
        }
    }

    #[test]
    fn what_names_no_node_is_refused() {
        for input in [
            "",
            "|",
            "127.0.0.1",
            "127.0.0.1|",
            "127.0.0.1|HTTP",
            "127.0.0.1|HTTP:",
            "127.0.0.1|HTTP:0",
            "127.0.0.1|HTTP:65536",
            "127.0.0.1|UDP:80",
            "127.0.0.1|HTTP:80|",
            "127.0.0.1:80",
            "localhost|HTTP:80",
            "127.0.0.1|HTTP:80:81",
        ] {
            assert!(Spec::parse(input).is_err(), "{input:?} was accepted");
        }
        let spec = Spec::parse("127.0.0.1|hTtP:40000|tcp:1").unwrap();
        assert_eq!(spec.to_string(), "127.0.0.1|HTTP:40000|TCP:1");
    }
}
