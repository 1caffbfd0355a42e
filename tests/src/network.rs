//! A network of hosts inside this machine: one bridge, one network namespace a host, and packets that get lost on order.
//!
//! All of it lives in one outer namespace that the test runs in, so that nothing leaks and everything is gone when it
//! ends: see [`isolated`]. The test itself stands at the bridge and reaches every host whatever is cut between them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;

use crate::eventually;

/// Set for the process that runs inside the outer namespace.
const ISOLATED: &str = "JCM_TESTS_ISOLATED";
const BRIDGE: &str = "jcm0";
/// A block for documentation: it exists nowhere else, so nothing can be meant by mistake.
const HOSTS: [u8; 3] = [198, 51, 100];
const FIRST_HOST: u8 = 10;
const UNUSED_PORT: u16 = 9;
const UP_DEADLINE: Duration = Duration::from_secs(20);
/// Between hosts of one machine.
const FIRST_ANSWER: Duration = Duration::from_millis(300);

/// Hosts that see one another. They end with the outer namespace.
#[derive(Debug)]
pub struct Network {
    hosts: BTreeMap<String, Ipv4Addr>,
}

/// Whether this process stands in a network of its own. If not, it runs the test named so once more in one, fails with
/// it, and the caller returns.
pub async fn isolated(test: &str) -> bool {
    if std::env::var_os(ISOLATED).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("a running program has a path");
    // Names of namespaces are files: a directory of its own for them, so that none stays behind.
    let enter = "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up && exec \"$@\"";
    let mut command = Command::new("unshare");
    // Without root, the user namespace makes this process root inside.
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        command.arg("--map-root-user");
    }
    command.args(["--net", "--mount", "sh", "-c", enter, "sh"]).arg(this);
    command.args(["--exact", test, "--nocapture"]).env(ISOLATED, "1").stdin(Stdio::null()).kill_on_drop(true);
    let status = command.status().await.expect("run unshare, of the package util-linux");
    assert!(
        status.success(),
        "{test} failed in a network namespace of its own ({status}). If the output above says that unshare, mount or ip \
         is not permitted: this test needs a machine where it may make namespaces, and iproute2 and iptables"
    );
    false
}

impl Network {
    pub async fn of(hosts: &[&str]) -> Self {
        run(&["ip", "link", "add", BRIDGE, "type", "bridge"]).await;
        let bridge = format!("{}/24", Ipv4Addr::from([HOSTS[0], HOSTS[1], HOSTS[2], 1]));
        run(&["ip", "address", "add", &bridge, "dev", BRIDGE]).await;
        run(&["ip", "link", "set", BRIDGE, "up"]).await;
        let mut network = Self { hosts: BTreeMap::new() };
        for (host, number) in hosts.iter().zip(FIRST_HOST..) {
            let address = Ipv4Addr::from([HOSTS[0], HOSTS[1], HOSTS[2], number]);
            let outside = format!("v-{host}");
            run(&["ip", "netns", "add", host]).await;
            run(&["ip", "link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", host])
                .await;
            run(&["ip", "link", "set", &outside, "master", BRIDGE, "up"]).await;
            network.hosts.insert((*host).to_owned(), address);
            network.inside(host, &["ip", "link", "set", "lo", "up"]).await;
            network.add_address(host, address).await;
            network.inside(host, &["ip", "link", "set", "eth0", "up"]).await;
        }
        for address in network.hosts.values() {
            // A link that has just been made swallows the first packets. Nobody listens there: refused is reached.
            eventually(UP_DEADLINE, &format!("{address} is reached"), async || {
                let reached = TcpStream::connect((*address, UNUSED_PORT));
                match tokio::time::timeout(FIRST_ANSWER, reached).await {
                    Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
        network
    }

    pub fn address(&self, host: &str) -> Ipv4Addr {
        *self.hosts.get(host).unwrap_or_else(|| panic!("there is no host {host}"))
    }

    /// So many addresses more for a host, for nodes that are to be told apart.
    pub async fn more_addresses(&self, host: &str, count: u8) -> Vec<Ipv4Addr> {
        let mut addresses = Vec::new();
        for number in 100..100 + count {
            let address = Ipv4Addr::from([HOSTS[0], HOSTS[1], HOSTS[2], number]);
            self.add_address(host, address).await;
            addresses.push(address);
        }
        addresses
    }

    /// What one host sends does not reach the other any more; the other direction does.
    pub async fn block(&self, from: &str, to: &str) {
        let from = self.address(from).to_string();
        self.drop_packets(to, &["INPUT", "-s", &from]).await;
    }

    /// Nothing passes between two hosts any more.
    pub async fn cut(&self, one: &str, other: &str) {
        self.block(one, other).await;
        self.block(other, one).await;
    }

    /// Nothing passes between a host and any other.
    pub async fn isolate(&self, host: &str) {
        for other in self.hosts.keys().filter(|other| *other != host) {
            self.cut(host, other).await;
        }
    }

    /// A host hears nobody; what it says is heard.
    pub async fn deafen(&self, host: &str) {
        for other in self.hosts.keys().filter(|other| *other != host) {
            self.block(other, host).await;
        }
    }

    /// A host does not reach these addresses any more.
    pub async fn cut_from(&self, host: &str, addresses: &[Ipv4Addr]) {
        for address in addresses {
            self.drop_packets(host, &["OUTPUT", "-d", &address.to_string()]).await;
        }
    }

    /// Whatever comes to a host is swallowed: nobody is refused, nobody is answered.
    pub async fn swallow(&self, host: &str) {
        self.drop_packets(host, &["INPUT"]).await;
    }

    /// This share of all packets between hosts gets lost.
    pub async fn lose(&self, share: f64) {
        let share = share.to_string();
        for (host, own) in &self.hosts {
            for other in self.hosts.values().filter(|other| *other != own) {
                let rule = [
                    "INPUT",
                    "-s",
                    &other.to_string(),
                    "-m",
                    "statistic",
                    "--mode",
                    "random",
                    "--probability",
                    &share,
                ];
                self.drop_packets(host, &rule).await;
            }
        }
    }

    /// How many packets were dropped on order, over all hosts.
    pub async fn dropped(&self) -> u64 {
        let mut count = 0;
        for host in self.hosts.keys() {
            let rules = self.inside(host, &["iptables", "-w", "-nvxL"]).await;
            let dropping = rules.lines().filter(|line| line.contains(" DROP "));
            count +=
                dropping.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>();
        }
        count
    }

    /// Everything passes again.
    pub async fn heal(&self) {
        for host in self.hosts.keys() {
            self.inside(host, &["iptables", "-w", "-F"]).await;
        }
    }

    async fn add_address(&self, host: &str, address: Ipv4Addr) {
        self.inside(host, &["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"]).await;
    }

    async fn drop_packets(&self, host: &str, rule: &[&str]) {
        self.inside(host, &[&["iptables", "-w", "-A"], rule, &["-j", "DROP"]].concat()).await;
    }

    async fn inside(&self, host: &str, command: &[&str]) -> String {
        run(&[&["nsenter", &format!("--net=/run/netns/{host}")], command].concat()).await
    }
}

async fn run(command: &[&str]) -> String {
    let output =
        Command::new(command[0]).args(&command[1..]).kill_on_drop(true).output().await.unwrap_or_else(
            |error| panic!("{}: {error}; iproute2, iptables and util-linux are needed", command[0]),
        );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
