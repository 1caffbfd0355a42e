//! A real `jcm-server` process: started, killed, restarted, and ended with the test.
//!
//! Its standard error goes to a file, is printed when the test fails, and a panic in it fails the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;

use crate::api::Client;
use crate::process::{self, Exit};
use crate::{binary, loopback, memory};

/// From the start of the process to its line `listening on`: two busy cores and a debug build.
const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(15);
const LISTENING: &str = "listening on http://";
/// What is shown of a failed test's server log: its end.
const LOG_SHOWN_BYTES: usize = 16 * 1024;

/// How a server is to be started.
#[derive(Debug)]
pub struct Starter {
    mode: Mode,
    listen: String,
    data: Option<PathBuf>,
    in_memory: bool,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    namespace: Option<String>,
}

#[derive(Debug)]
enum Mode {
    Dev {
        demo: bool,
    },
    /// `serve`, with this text below a `[server]` table that names address and data directory.
    Serve(String),
}

/// A running (or killed) server. Ends with its owner.
#[derive(Debug)]
pub struct Server {
    starter: Starter,
    child: Child,
    address: SocketAddr,
    stdout: Lines,
    directory: TempDir,
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Starter {
    /// Keeps the definitions in this directory instead of one that ends with the server.
    #[must_use]
    pub fn data(mut self, directory: &Path) -> Self {
        self.data = Some(directory.to_owned());
        self
    }

    /// Keeps what ends with the server in memory: for tests and figures whose subject is no disk.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.in_memory = true;
        self
    }

    #[must_use]
    pub fn listen(mut self, listen: &str) -> Self {
        listen.clone_into(&mut self.listen);
        self
    }

    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In this network namespace.
    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Starts it and waits until it accepts connections.
    pub async fn start(self) -> Server {
        match self.try_start().await {
            Ok(server) => server,
            Err(exit) => panic!("the server ended instead of listening: {exit:#?}"),
        }
    }

    /// The same for a server that is expected to refuse: its exit is the answer.
    pub async fn try_start(mut self) -> Result<Server, Exit> {
        const PREFIX: &str = "jcm-test-";
        let directory = if self.in_memory { memory::directory(PREFIX) } else { TempDir::with_prefix(PREFIX) };
        let directory = directory.expect("a temporary directory");
        let (child, address, stdout) = self.spawn(directory.path()).await?;
        self.listen = address.to_string();
        Ok(Server { starter: self, child, address, stdout, directory })
    }

    async fn spawn(&self, directory: &Path) -> Result<(Child, SocketAddr, Lines), Exit> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log_path(directory))
            .expect("a log file in the temporary directory");
        let mut child = self
            .command(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("start jcm-server");
        let stdout = child.stdout.take().expect("standard output is piped");
        let lines = Lines::default();
        let (found, mut listening) = watch::channel(None);
        tokio::spawn(read_lines(stdout, Arc::clone(&lines), found));
        let outcome = tokio::select! {
            address = listening.wait_for(Option::is_some) => Some(address.map(|address| *address)),
            () = tokio::time::sleep(START_DEADLINE) => None,
        };
        match outcome {
            Some(Ok(address)) => {
                let address = address.expect("waited until it was there");
                Ok((child, address, lines))
            }
            // Its standard output ended without the line: it has exited or is about to.
            Some(Err(_)) => {
                let status = wait(&mut child, STOP_DEADLINE).await;
                Err(Exit {
                    code: status.code(),
                    stdout: text(&lines),
                    stderr: std::fs::read_to_string(log_path(directory)).unwrap_or_default(),
                })
            }
            None => panic!(
                "no line `{LISTENING}…` within {START_DEADLINE:?}\nstandard output: {}\nlog:\n{}",
                text(&lines),
                log_end(directory)
            ),
        }
    }

    fn command(&self, directory: &Path) -> Command {
        let program = binary::program("jcm-server");
        let mut command = match &self.namespace {
            // It becomes the server: the pid is the server's own.
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
                command
            }
            None => Command::new(program),
        };
        let data = self.data.clone().unwrap_or_else(|| directory.join("data"));
        match &self.mode {
            Mode::Dev { demo } => {
                command.args(["dev", "--listen", &self.listen, "--data"]).arg(data);
                command.args((!demo).then_some("--no-demo"));
            }
            Mode::Serve(config) => {
                let path = directory.join("jcm.toml");
                let server = format!("[server]\nlisten = '{}'\ndata = '{}'\n", self.listen, data.display());
                std::fs::write(&path, server + config).expect("write the config");
                command.args(["serve", "--config"]).arg(path);
            }
        }
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A server for one test and a client of it.
pub async fn start() -> (Server, Client) {
    let server = Server::dev().start().await;
    let client = server.client();
    (server, client)
}

impl Server {
    /// `jcm-server dev` without the demo nodes.
    pub fn dev() -> Starter {
        Self::starter(Mode::Dev { demo: false })
    }

    /// `jcm-server dev` with its demo nodes.
    pub fn demo() -> Starter {
        Self::starter(Mode::Dev { demo: true })
    }

    /// `jcm-server serve`. The config holds `[server]` with address and data directory, then this text.
    pub fn serve(config: &str) -> Starter {
        Self::starter(Mode::Serve(config.to_owned()))
    }

    fn starter(mode: Mode) -> Starter {
        let listen = format!("{}:0", loopback::next());
        let (arguments, environment) = (Vec::new(), Vec::new());
        Starter { mode, listen, data: None, in_memory: false, arguments, environment, namespace: None }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn client(&self) -> Client {
        Client::new(&self.url())
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("asked only of a running server")
    }

    /// The directory of its log and, unless another was given, of its data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn data(&self) -> PathBuf {
        self.starter.data.clone().unwrap_or_else(|| self.directory.path().join("data"))
    }

    /// What it has written to standard error so far, over all its lives.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(log_path(self.directory.path())).expect("the log file stays until the end");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What it has written to standard output in this life.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// Whether the process is there at all.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill_9(&mut self) {
        self.child.start_kill().expect("kill a process that this test started");
        wait(&mut self.child, STOP_DEADLINE).await;
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM").await;
        wait(&mut self.child, STOP_DEADLINE).await
    }

    pub async fn signal(&self, name: &str) {
        process::signal(self.pid(), name).await;
    }

    /// Starts a killed server again, and answers whether it listens within the deadline. If not, it is ended.
    pub async fn restarts_within(&mut self, deadline: Duration) -> bool {
        match tokio::time::timeout(deadline, self.starter.spawn(self.directory.path())).await {
            Ok(Ok((child, _, stdout))) => {
                self.child = child;
                self.stdout = stdout;
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// The same address and the same data once more. A server that still runs is killed before.
    pub async fn restart(&mut self) {
        if self.is_running() {
            self.kill_9().await;
        }
        match self.starter.spawn(self.directory.path()).await {
            Ok((child, address, stdout)) => {
                assert_eq!(address, self.address, "it must come back at its address");
                self.child = child;
                self.stdout = stdout;
            }
            Err(exit) => panic!("the server did not come back: {exit:#?}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let log = self.log();
        let panicked = log.contains("panicked at");
        if std::thread::panicking() {
            eprintln!("--- log of the server {} ---\n{}", self.url(), log_end(self.directory.path()));
        } else if panicked {
            panic!("the server panicked:\n{}", log_end(self.directory.path()));
        }
    }
}

/// Reads to the end, so that the server never blocks on a full pipe.
async fn read_lines(stdout: ChildStdout, lines: Lines, found: watch::Sender<Option<SocketAddr>>) {
    let mut reader = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        if let Some(address) = line.strip_prefix(LISTENING) {
            found.send_replace(address.trim().parse().ok());
        }
        lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

async fn wait(child: &mut Child, deadline: Duration) -> ExitStatus {
    tokio::time::timeout(deadline, child.wait())
        .await
        .unwrap_or_else(|_| panic!("the server did not end within {deadline:?}"))
        .expect("wait for a process that this test started")
}

fn text(lines: &Lines) -> String {
    lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("server.log")
}

fn log_end(directory: &Path) -> String {
    let bytes = std::fs::read(log_path(directory)).unwrap_or_default();
    let from = bytes.len().saturating_sub(LOG_SHOWN_BYTES);
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}
