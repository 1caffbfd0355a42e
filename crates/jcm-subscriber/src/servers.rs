//! Which server is tried next, and when.
//!
//! Invariant: the seeds are never forgotten. A round goes through every server known, those that servers told of first,
//! each part in random order so that clients spread; the one that just failed comes last. Between tries stands a random
//! delay below a bound that doubles with every round that found nobody.

use std::collections::VecDeque;
use std::time::Duration;

use jcm_model::invalid::quoted;
use tonic::transport::Uri;

use crate::random::Random;

/// The bound of the first delay: short, because most failures are one server's.
pub(crate) const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// The bound that delays grow to: half of it on average is how long a program notices late that servers are back.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Most servers that are remembered from what servers tell: far beyond any sensible number of them.
const LEARNED_MAX: usize = 64;

/// Where a server listens: a valid URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server(Uri);

impl Server {
    /// Parses `http://host:port` or `host:port`; the error says what is wrong.
    pub(crate) fn parse(given: &str) -> Result<Self, String> {
        let uri = if given.contains("://") { given.parse() } else { format!("http://{given}").parse() };
        let uri: Uri = uri.map_err(|error| format!("it is no URL: {error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err("TLS is not supported yet: use http".to_owned()),
            _ => return Err("it must begin with http://".to_owned()),
        }
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err("it must be a host and a port".to_owned());
        }
        if uri.port().is_none_or(|port| port.as_u16() == 0) {
            return Err("it names no port from 1 to 65535".to_owned());
        }
        if uri.path_and_query().is_some_and(|path| path != "/") {
            return Err("nothing may follow the port".to_owned());
        }
        Ok(Self(uri))
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let authority = self.0.authority().expect("a server's address names its host");
        f.write_str(authority.as_str())
    }
}

/// Input as it may appear in an error.
pub(crate) fn shown(given: &str) -> String {
    let quoted = quoted(given);
    quoted.strip_prefix('`').and_then(|text| text.strip_suffix('`')).unwrap_or(&quoted).to_owned()
}

/// Every server known, and the round through them that is under way.
#[derive(Debug)]
pub(crate) struct Servers {
    seeds: Vec<Server>,
    learned: Vec<Server>,
    round: VecDeque<Server>,
    /// Rounds that found nobody.
    failed_rounds: u32,
    /// Tried last in the next round.
    last_resort: Option<Server>,
}

impl Servers {
    pub(crate) fn new(seeds: Vec<Server>) -> Self {
        Self { seeds, learned: Vec::new(), round: VecDeque::new(), failed_rounds: 0, last_resort: None }
    }

    /// Takes over what a server says about all servers. What makes no sense is left out.
    pub(crate) fn learn<'a>(&mut self, advertised: impl Iterator<Item = &'a str>) {
        let mut learned = Vec::new();
        for server in advertised.filter_map(|given| Server::parse(given).ok()).take(LEARNED_MAX) {
            if !learned.contains(&server) {
                learned.push(server);
            }
        }
        self.learned = learned;
    }

    /// The next server to try.
    pub(crate) fn next(&mut self, random: &mut Random) -> Server {
        if self.round.is_empty() {
            self.fill_round(random);
        }
        let server = self.round.pop_front().expect("a round holds the seeds, of which there is one at least");
        if self.round.is_empty() {
            self.failed_rounds = self.failed_rounds.saturating_add(1);
        }
        server
    }

    fn fill_round(&mut self, random: &mut Random) {
        let mut learned = self.learned.clone();
        let mut seeds: Vec<Server> =
            self.seeds.iter().filter(|seed| !learned.contains(seed)).cloned().collect();
        shuffle(&mut learned, random);
        shuffle(&mut seeds, random);
        self.round.extend(learned);
        self.round.extend(seeds);
        if let Some(server) = self.last_resort.take()
            && let Some(at) = self.round.iter().position(|other| *other == server)
        {
            self.round.remove(at);
            self.round.push_back(server);
        }
    }

    /// A random delay before the next try ("full jitter").
    pub(crate) fn delay(&self, random: &mut Random) -> Duration {
        let doubled = BACKOFF_BASE.saturating_mul(1_u32.checked_shl(self.failed_rounds).unwrap_or(u32::MAX));
        let bound = u32::try_from(doubled.min(BACKOFF_MAX).as_millis()).unwrap_or(u32::MAX);
        Duration::from_millis(u64::from(random.below(bound.max(1))))
    }

    /// This one serves well. When it fails, a new round begins with the others.
    pub(crate) fn settle_on(&mut self, server: &Server) {
        self.failed_rounds = 0;
        self.round.clear();
        self.last_resort = Some(server.clone());
    }

    /// This one asked to be left.
    pub(crate) fn avoid(&mut self, server: &Server) {
        self.round.retain(|other| other != server);
        self.last_resort = Some(server.clone());
    }
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for at in (1..items.len()).rev() {
        let bound = u32::try_from(at + 1).expect("lists of servers are short");
        items.swap(at, random.below(bound) as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn server(port: u16) -> Server {
        Server::parse(&format!("127.0.0.1:{port}")).unwrap()
    }

    #[test]
    fn an_address_that_cannot_work_is_refused_with_the_reason() {
        for (given, part) in [
            ("", "no URL"),
            ("http://", "no URL"),
            ("https://a:1", "TLS"),
            ("ftp://a:1", "http://"),
            ("127.0.0.1", "no port"),
            ("http://a:0", "no port"),
            ("http://u:p@a:1", "host and a port"),
            ("http://a:1/x", "nothing may follow"),
        ] {
            let reason = Server::parse(given).expect_err(given);
            assert!(reason.contains(part), "{given}: {reason}");
        }
        for good in ["http://a.example:8080", "http://127.0.0.1:1/", "[::1]:8080"] {
            assert!(Server::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_round_tries_the_learned_ones_first_and_never_forgets_a_seed() {
        let mut random = Random::seeded(3);
        let mut servers = Servers::new(vec![server(1), server(2)]);
        servers.learn(["127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:3", "nonsense"].into_iter());
        for _ in 0..20 {
            let round: Vec<String> = (0..3).map(|_| servers.next(&mut random).to_string()).collect();
            assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 3, "{round:?}");
            assert_eq!(round[2], "127.0.0.1:1");
        }
        servers.learn(std::iter::empty());
        let round: BTreeSet<String> = (0..2).map(|_| servers.next(&mut random).to_string()).collect();
        assert_eq!(round, BTreeSet::from(["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]));
    }

    #[test]
    fn the_server_that_served_last_is_tried_last() {
        for seed in 0..20 {
            let mut random = Random::seeded(seed);
            let mut servers = Servers::new(vec![server(1), server(2), server(3)]);
            servers.next(&mut random);
            servers.settle_on(&server(2));
            let round: Vec<Server> = (0..3).map(|_| servers.next(&mut random)).collect();
            assert_eq!(round[2], server(2));
        }
    }

    #[test]
    fn delays_grow_by_rounds_up_to_their_bound() {
        let mut random = Random::seeded(7);
        let mut servers = Servers::new(vec![server(1)]);
        let mut longest = Vec::new();
        for _ in 0..40 {
            longest.push((0..200).map(|_| servers.delay(&mut random)).max().unwrap());
            servers.next(&mut random);
        }
        assert!(longest[0] < BACKOFF_BASE);
        assert!(longest[1] > BACKOFF_BASE, "{longest:?}");
        assert!(longest[39] > BACKOFF_MAX / 2 && longest[39] < BACKOFF_MAX, "{longest:?}");
        servers.settle_on(&server(1));
        assert!(servers.delay(&mut random) < BACKOFF_BASE);
    }
}
