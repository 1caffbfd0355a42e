//! A ZooKeeper of one or three members for one test, whose members can be killed, paused and brought back singly.
//!
//! `scripts/zookeeper` starts and stops them; this file knows where it leaves their pids. Whatever becomes of the test,
//! its members end: on drop, and when the test process is gone without one, by a shell that waits for that.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::{eventually, memory, process};

/// Client ports of all ensembles of tests, below the range from which the kernel takes ports of outgoing connections.
const FIRST_PORT: u16 = 24_000;
/// A block holds client ports, and 100 and 200 above them the ports between members.
const BLOCKS: u16 = 6;
const BLOCK_PORTS: u16 = 300;
const ENSEMBLES_PER_BLOCK: u16 = 33;
/// Three JVMs on two busy cores.
const START_DEADLINE: Duration = Duration::from_secs(90);
const ELECTION_DEADLINE: Duration = Duration::from_mins(1);
/// A member on this machine answers in milliseconds, a paused one never.
const ANSWER_DEADLINE: Duration = Duration::from_millis(700);

/// How an ensemble is to be started.
#[derive(Debug, Clone)]
pub struct Starter {
    members: usize,
    sync_limit: u32,
    address: Ipv4Addr,
    namespace: Option<String>,
}

/// A running ensemble. Members are numbered from 1, as ZooKeeper does it.
#[derive(Debug)]
pub struct Ensemble {
    starter: Starter,
    base: u16,
    directory: TempDir,
    /// Keeps the ports: whoever can bind it may use them.
    _slot: TcpListener,
    /// Ends the members when this process is gone. It waits for the end of its standard input.
    _watchdog: Child,
}

impl Starter {
    /// Ticks of 500 ms that a member may lag behind before its leader gives it up.
    #[must_use]
    pub fn sync_limit(mut self, ticks: u32) -> Self {
        self.sync_limit = ticks;
        self
    }

    /// In this network namespace, at this address of it.
    #[must_use]
    pub fn within(mut self, namespace: &str, address: Ipv4Addr) -> Self {
        self.namespace = Some(namespace.to_owned());
        self.address = address;
        self
    }

    /// Starts all members and waits until they serve.
    pub async fn start(self) -> Ensemble {
        let (base, slot) = free_ports();
        let directory = memory::directory("jcm-zookeeper-").expect("a temporary directory");
        let watchdog = watchdog(self.members, directory.path());
        let ensemble = Ensemble { starter: self, base, directory, _slot: slot, _watchdog: watchdog };
        ensemble.script(&["start"]).await;
        ensemble
    }
}

impl Ensemble {
    /// This many members (1 or 3) with the usual settings, serving.
    pub async fn start(members: usize) -> Self {
        Self::of(members).start().await
    }

    pub fn of(members: usize) -> Starter {
        Starter { members, sync_limit: 10, address: Ipv4Addr::LOCALHOST, namespace: None }
    }

    /// What `store.zookeeper.hosts` takes.
    pub fn hosts(&self) -> String {
        let hosts: Vec<_> = self.numbers().map(|member| self.address(member).to_string()).collect();
        hosts.join(",")
    }

    /// Where clients find a member.
    pub fn address(&self, member: usize) -> SocketAddr {
        let offset = u16::try_from(member - 1).expect("a member's number");
        SocketAddr::from((self.starter.address, self.base + offset))
    }

    pub fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        1..=self.starter.members
    }

    pub fn pid(&self, member: usize) -> u32 {
        let file = self.directory.path().join(member.to_string()).join("zookeeper.pid");
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        text.trim().parse().unwrap_or_else(|_| panic!("{}: {text:?} is not a pid", file.display()))
    }

    pub fn is_running(&self, member: usize) -> bool {
        let command_line = std::fs::read(format!("/proc/{}/cmdline", self.pid(member))).unwrap_or_default();
        let configuration = self.directory.path().join(member.to_string()).join("zoo.cfg");
        let configuration = configuration.as_os_str().as_encoded_bytes();
        command_line.windows(configuration.len()).any(|part| part == configuration)
    }

    /// What a member says to a four-letter word; `None` when it does not answer in time.
    pub async fn ask(&self, member: usize, word: &str) -> Option<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address(member)).await.ok()?;
            stream.write_all(word.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        tokio::time::timeout(ANSWER_DEADLINE, exchange).await.ok().flatten().filter(|text| !text.is_empty())
    }

    /// `leader`, `follower`, `standalone`; `None` for a member that does not serve.
    pub async fn mode(&self, member: usize) -> Option<String> {
        field(&self.ask(member, "srvr").await?, "Mode")
    }

    /// The member that leads (or is alone), waited for.
    pub async fn leader(&self) -> usize {
        eventually(ELECTION_DEADLINE, "a member of ZooKeeper leads", async || {
            for member in self.numbers() {
                if matches!(self.mode(member).await.as_deref(), Some("leader" | "standalone")) {
                    return Ok(member);
                }
            }
            Err("none does")
        })
        .await
    }

    /// A member that follows, waited for.
    pub async fn follower(&self) -> usize {
        eventually(ELECTION_DEADLINE, "a member of ZooKeeper follows", async || {
            for member in self.numbers() {
                if self.mode(member).await.as_deref() == Some("follower") {
                    return Ok(member);
                }
            }
            Err("none does")
        })
        .await
    }

    /// How many transactions ZooKeeper has committed in the present epoch of its leader, sessions' beginnings and ends
    /// included, reads and pings not.
    pub async fn transactions(&self) -> u64 {
        let leader = self.leader().await;
        let answer = self.ask(leader, "srvr").await.expect("the leader answers");
        let zxid = field(&answer, "Zxid")
            .and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        zxid.unwrap_or_else(|| panic!("no zxid in {answer}")) & 0xffff_ffff
    }

    pub async fn kill_9(&self, member: usize) {
        process::signal(self.pid(member), "KILL").await;
        eventually(Duration::from_secs(10), "a killed member is gone", async || {
            if self.is_running(member) { Err("it runs") } else { Ok(()) }
        })
        .await;
    }

    /// SIGSTOP: the kernel accepts connections for it, nobody answers.
    pub async fn pause(&self, member: usize) {
        process::signal(self.pid(member), "STOP").await;
    }

    pub async fn resume(&self, member: usize) {
        process::signal(self.pid(member), "CONT").await;
    }

    /// Ends a member in order; its data stays.
    pub async fn stop(&self, member: usize) {
        self.script(&["stop", "--member", &member.to_string()]).await;
    }

    /// Starts a member that was killed or stopped, and waits until it serves.
    pub async fn restart(&self, member: usize) {
        self.script(&["start", "--member", &member.to_string()]).await;
    }

    pub async fn stop_all(&self) {
        self.script(&["stop"]).await;
    }

    /// Starts what does not run, and waits until all serve.
    pub async fn start_all(&self) {
        self.script(&["start"]).await;
    }

    /// All members stopped, emptied and started: an ensemble at the same addresses that knows nothing.
    pub async fn wipe(&self) {
        self.stop_all().await;
        for member in self.numbers() {
            let home = self.directory.path().join(member.to_string());
            std::fs::remove_dir_all(home).expect("remove a stopped member's data");
        }
        self.start_all().await;
    }

    /// Stops a member for most of each round, for so many rounds: it serves, slowly, as one on a busy machine does.
    pub async fn stumble(&self, member: usize, stopped: Duration, running: Duration, rounds: usize) {
        for _ in 0..rounds {
            self.pause(member).await;
            tokio::time::sleep(stopped).await;
            self.resume(member).await;
            tokio::time::sleep(running).await;
        }
    }

    /// Runs a command of ZooKeeper's own shell, as an operator would, and answers what it said.
    pub async fn shell(&self, command: &[&str]) -> String {
        let jars = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar";
        let mut shell = Command::new("java");
        shell.args([
            "-cp",
            jars,
            "org.apache.zookeeper.ZooKeeperMain",
            "-server",
            &self.address(1).to_string(),
        ]);
        let output = shell.args(command).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(START_DEADLINE, output)
            .await
            .unwrap_or_else(|_| panic!("ZooKeeper's shell did not end: {command:?}"))
            .expect("run ZooKeeper's shell");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
        said
    }

    /// How many sessions all members have given up so far, by their logs.
    pub fn expiries(&self) -> usize {
        self.numbers().map(|member| self.log(member).matches("Expiring session").count()).sum()
    }

    /// What the member has written to its log.
    pub fn log(&self, member: usize) -> String {
        let file = self.directory.path().join(member.to_string()).join("zookeeper.log");
        std::fs::read_to_string(file).unwrap_or_default()
    }

    async fn script(&self, arguments: &[&str]) {
        let mut command = script(&self.starter, self.base, self.directory.path());
        let output = command.args(arguments).kill_on_drop(true).output();
        let output = tokio::time::timeout(START_DEADLINE, output)
            .await
            .unwrap_or_else(|_| panic!("scripts/zookeeper {arguments:?} did not end"))
            .expect("run scripts/zookeeper");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "scripts/zookeeper {arguments:?}: {}\n{said}", output.status);
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        for member in self.numbers() {
            if std::thread::panicking() {
                let log = self.log(member);
                let lines: Vec<_> = log.lines().rev().take(5).collect();
                eprintln!("--- end of the log of ZooKeeper's member {member} ---");
                lines.into_iter().rev().for_each(|line| eprintln!("{line}"));
            }
            if self.is_running(member) {
                // Its data ends with the test: there is nothing to shut down in order.
                let kill = format!("kill -s KILL {}", self.pid(member));
                let _ = std::process::Command::new("sh").args(["-c", &kill]).status();
            }
        }
    }
}

/// `Mode` of `Mode: leader`.
fn field(answer: &str, name: &str) -> Option<String> {
    answer.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.trim().to_owned()))
}

/// Ports that no ensemble of another test has: the first of them is bound on an address of loopback of its own for as
/// long as they are in use.
fn free_ports() -> (u16, TcpListener) {
    let slots = BLOCKS * ENSEMBLES_PER_BLOCK;
    let begin = std::process::id() % u32::from(slots);
    let begin = u16::try_from(begin).expect("less than the number of slots");
    for slot in (begin..slots).chain(0..begin) {
        let base = FIRST_PORT + slot / ENSEMBLES_PER_BLOCK * BLOCK_PORTS + slot % ENSEMBLES_PER_BLOCK * 3;
        let Ok(listener) = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 3), base)) else { continue };
        // Somebody who is no test may have them.
        let used = (0..3).flat_map(|n| [0, 100, 200].map(|above| base + n + above));
        if used.into_iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return (base, listener);
        }
    }
    panic!("no ports are free for a ZooKeeper from {FIRST_PORT} on");
}

fn script(starter: &Starter, base: u16, directory: &Path) -> Command {
    let mut command = Command::new(script_path());
    if let Some(namespace) = &starter.namespace {
        command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg(script_path());
    }
    command.arg("--dir").arg(directory);
    command.args(["--members", &starter.members.to_string(), "--port", &base.to_string()]);
    command.args([
        "--address",
        &starter.address.to_string(),
        "--sync-limit",
        &starter.sync_limit.to_string(),
    ]);
    command
}

fn watchdog(members: usize, directory: &Path) -> Child {
    let kill = r#"trap "" INT TERM HUP; read -r _; for n in $(seq "$1"); do
        pid=$(cat "$2/$n/zookeeper.pid" 2>/dev/null) || continue
        grep -qF "$2/$n/zoo.cfg" "/proc/$pid/cmdline" 2>/dev/null && kill -s KILL "$pid"
    done"#;
    Command::new("sh")
        .args(["-c", kill, "sh", &members.to_string()])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("every Unix has a shell")
}

fn script_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/zookeeper")
}
