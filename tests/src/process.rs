//! Programs that run to their end, and signals to those that do not.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::eventually;

/// A busy machine gives every thread its turn long before.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Exit {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Exit {
    /// What it wrote to standard output, once it is sure that it ended well.
    pub fn expect_success(&self) -> &str {
        self.expect_code(0)
    }

    pub fn expect_code(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "exit code; it said {self:#?}");
        &self.stdout
    }
}

/// Kills the programs that this one started when it panics. A release build does not unwind, so nothing that is dropped would
/// end them, and they would go on for ever.
pub fn end_children_with_a_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        children().for_each(|child| {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        });
        before(panic);
    }));
}

fn children() -> impl Iterator<Item = rustix::process::Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    pids.filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?))
}

/// Runs a program with nothing on its standard input, and ends it when the deadline is over.
pub async fn run<A: AsRef<OsStr>>(program: &Path, arguments: &[A], deadline: Duration) -> Exit {
    run_with(program, arguments, &[], b"", deadline).await
}

/// The same with environment variables and bytes for its standard input.
pub async fn run_with<A: AsRef<OsStr>>(
    program: &Path,
    arguments: &[A],
    environment: &[(&str, &str)],
    input: &[u8],
    deadline: Duration,
) -> Exit {
    let mut child = Command::new(program)
        .args(arguments)
        // What the developer's shell says must not change what is tested.
        .env_remove("JCM_SERVER")
        .env_remove("JCM_TOKEN_FILE")
        .env_remove("JCM_CONFIG")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
    let stdin = child.stdin.take();
    let fed = async move {
        if let Some(mut stdin) = stdin {
            // A program that ends without reading its input is judged by its exit code.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, input).await;
        }
    };
    let ended = async { tokio::join!(fed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(deadline, ended)
        .await
        .unwrap_or_else(|_| panic!("{} did not end within {deadline:?}", program.display()))
        .unwrap_or_else(|error| panic!("wait for {}: {error}", program.display()));
    Exit {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The CPU time that a process has taken so far, in user and system together, to a hundredth of a second. Zero when it
/// is gone.
pub fn cpu_time(pid: u32) -> Duration {
    /// What Linux counts in, on every machine: `USER_HZ`.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program may hold anything; what follows its last bracket are numbers.
    let numbers = stat.rsplit_once(')').map_or("", |(_, numbers)| numbers);
    let ticks = numbers.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok());
    TICK * ticks.sum::<u32>()
}

/// Sends a signal by name (`TERM`, `STOP`, `CONT`) to a process that this test started.
///
/// The shell's own `kill` does it: a bare Debian has no `/bin/kill`, and the library call is unsafe code.
pub async fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -s {name} {pid}"))
        .status()
        .await
        .expect("every Unix has a shell");
    assert!(sent.success(), "send {name} to {pid}: {sent}");
    if name == "STOP" {
        // Its threads stop one after another, some of them in the middle of an answer.
        eventually(STOP_DEADLINE, "the process has stopped", async || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("gone").to_owned();
            if state.contains("T (stopped)") { Ok(()) } else { Err(state) }
        })
        .await;
    }
}

/// A figure of `/proc/PID/status` in KiB, such as `VmRSS`.
pub fn status_kib(pid: u32, figure: &str) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
    let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {figure} in\n{status}"))
}
