//! Opens connections to nodes, for all probers of one engine.

use std::net::SocketAddr;
use std::sync::Arc;

use jcm_model::TargetPolicy;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use super::Stopwatch;
use crate::outcome::{LocalTrouble, Outcome, Phase};

/// How many connections may be being opened at once.
///
/// Healthy nodes accept in about a millisecond and never meet this bound. It is for those that swallow SYNs: 5,000 of
/// them, given 0.8 s each second, keep 4,000 sockets waiting. Beyond that, more sockets would only take descriptors
/// (a process may hold 20,000) away from everything else.
pub(crate) const OPENING_MAX: usize = 4_096;

/// Opens connections, within the bounds of this machine and of the policy on targets.
#[derive(Debug)]
pub(crate) struct Dialer {
    policy: Arc<TargetPolicy>,
    opening: Semaphore,
}

impl Dialer {
    pub(crate) fn new(policy: Arc<TargetPolicy>, opening_max: usize) -> Self {
        Self { policy, opening: Semaphore::new(opening_max) }
    }

    /// Connects. The policy is asked again here, although nodes were checked when they were written: what was
    /// permitted then, on another server, may be this server's own port now.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        watch: &mut Stopwatch,
    ) -> Result<TcpStream, Outcome> {
        self.policy.permit(address).map_err(|_| Outcome::Forbidden)?;
        let crowded = Outcome::Local(LocalTrouble::Crowded);
        let _opening = match self.opening.try_acquire() {
            Ok(permit) => permit,
            Err(_) => watch.aside(self.opening.acquire()).await.ok_or(crowded)?.map_err(|_| crowded)?,
        };
        let failed = |error: std::io::Error| Outcome::from_io(&error, Phase::Connecting);
        let socket =
            if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
        // A request of one segment must not wait for the acknowledgement of anything.
        socket.set_nodelay(true).map_err(failed)?;
        // A checker that is done closes with a reset, as HAProxy's does. An ordinary close by the side that speaks last
        // leaves a minute of TIME_WAIT for every probe, here or on the node, and on a hung node a connection that
        // nobody ever takes down. Nothing is lost: whatever is unsent or unread by then is not wanted.
        socket.set_zero_linger().map_err(failed)?;
        let stream = watch.within(Phase::Connecting, socket.connect(address)).await?.map_err(failed)?;
        if is_connected_to_itself(&stream, address) { Err(Outcome::Refused) } else { Ok(stream) }
    }
}

/// Where nobody listens on a port of this machine's own ephemeral range, the kernel may pick just that port as the
/// source: TCP then connects to itself, and a dead node would seem to live.
fn is_connected_to_itself(stream: &TcpStream, address: SocketAddr) -> bool {
    stream.local_addr().is_ok_and(|local| local == address)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    fn dialer(opening_max: usize) -> Dialer {
        Dialer::new(Arc::new(TargetPolicy { loopback_allowed: true, own: Vec::new() }), opening_max)
    }

    #[tokio::test]
    async fn a_socket_that_reached_itself_is_told_from_one_that_reached_a_node() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let echo = socket.connect(address).await.expect("the kernel lets a socket connect to itself");
        assert!(is_connected_to_itself(&echo, address));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        assert!(!is_connected_to_itself(&stream, address));
    }

    #[tokio::test]
    async fn a_probe_that_queues_for_leave_too_long_is_late_and_blames_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dialer = dialer(1);
        let taken = dialer.opening.acquire().await.unwrap();
        let mut watch = Stopwatch::start(Duration::from_secs(10), Duration::from_millis(20));
        let refused = dialer.connect(address, &mut watch).await.unwrap_err();
        assert_eq!(refused, Outcome::Local(LocalTrouble::Crowded));
        assert!(watch.is_late());
        drop(taken);
        let mut watch = Stopwatch::start(Duration::from_secs(10), Duration::from_secs(10));
        for _ in 0..3 {
            assert!(dialer.connect(address, &mut watch).await.is_ok(), "leave is given back once connected");
        }
    }

    #[tokio::test]
    async fn connections_that_nobody_answers_count_against_the_bound() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        // A listener whose queue is full drops every further SYN without a word.
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            queued.push(stream.unwrap());
        }
        let dialer = dialer(1);
        let mut first = Stopwatch::start(Duration::from_millis(500), Duration::from_secs(10));
        let mut second = Stopwatch::start(Duration::from_secs(10), Duration::from_millis(20));
        let (first, second) =
            tokio::join!(dialer.connect(address, &mut first), dialer.connect(address, &mut second));
        assert_eq!(first.unwrap_err(), Outcome::TimedOut(Phase::Connecting));
        assert_eq!(second.unwrap_err(), Outcome::Local(LocalTrouble::Crowded));
        assert_eq!(
            dialer.opening.available_permits(),
            1,
            "leave comes back when the connection does not come about"
        );
    }
}
