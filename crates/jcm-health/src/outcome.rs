//! What one probe of one node came to.
//!
//! An outcome is a plain value of four bytes, so that the last ones of every node can be kept, and it carries enough
//! to say in words what went wrong. It does not say what follows from it: that is the judge's business.

mod grpc;
mod tls;

use std::fmt;
use std::io;
use std::time::Duration;

pub use grpc::{GrpcStatus, NotGrpc, NotServing};
pub use tls::TlsFault;

/// What one probe came to. `Display` is the text that people read beside a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The node accepted the connection, which is all that a TCP check asks.
    Connected,
    /// The node answered with an expected status.
    Answered(u16),
    /// The node answered with a status that the policy does not expect.
    UnexpectedStatus(u16),
    /// The node answered with an expected status and without the text that the policy wants in its body.
    TextMissing(u16),
    /// The node's health service says that it serves.
    Serving,
    /// The node's health service says that it does not.
    NotServing(NotServing),
    /// The node's health service was not to be asked.
    GrpcStatus(GrpcStatus),
    /// The node said something that is not an answer of gRPC.
    NotGrpc(NotGrpc),
    /// TLS was not agreed on.
    Tls(TlsFault),
    /// More came than a checker reads of one answer and everything around it.
    TooMuch,
    /// The node's host answered, but nobody listens on that port.
    Refused,
    /// The time of the probe was over.
    TimedOut(Phase),
    /// The connection was closed before the head of an answer was complete.
    Closed,
    /// The connection was reset before the head of an answer was complete.
    Reset,
    /// The node said something that is not an HTTP/1 answer.
    NotHttp(Malformed),
    /// The head of the answer is larger than a checker reads.
    HeadTooLarge,
    /// This server may not connect to that address, so it did not.
    Forbidden,
    /// The network said something else, such as that there is no route.
    Io(io::ErrorKind),
    /// This machine could not probe: says nothing about the node.
    Local(LocalTrouble),
}

/// When a probe had come how far, each since its first action, as exact as the engine looks at the clock: to the moment
/// that it wakes, which is a tick of 10 ms while much is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Phases {
    /// A connection was open. `None` also where one was kept from an earlier probe.
    pub connected: Option<Duration>,
    /// TLS was agreed on. `None` also where it was on a kept connection, or is not asked for.
    pub secured: Option<Duration>,
    /// The first byte of the answer was there.
    pub answering: Option<Duration>,
}

/// What a probe was doing when its time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No connection yet.
    Connecting,
    /// Connected, and TLS not agreed on.
    Securing,
    /// Connected, the request not yet taken.
    Writing,
    /// Asked, and not one byte of an answer.
    Waiting,
    /// Part of an answer is there.
    Reading,
}

/// In what way an answer is not HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// The first line is not a status line.
    StatusLine,
    /// A header line is broken.
    Header,
    /// Interim answers (1xx) without end.
    EndlessInterim,
}

/// Trouble of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalTrouble {
    /// No file descriptor left.
    Descriptors,
    /// No local port or local address left for this destination.
    Ports,
    /// No memory for one more socket.
    Memory,
    /// A rule of this machine forbids the connection.
    Denied,
    /// Too many connections are being opened already.
    Crowded,
}

// The numbers of errors for which the standard library has no kind, as on every Linux.
const EPERM: i32 = 1;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;

impl Outcome {
    /// Whether the node passed.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Connected | Self::Answered(_) | Self::Serving)
    }

    /// Whether anything at all came back, which proves that the way to the node works.
    ///
    /// A refused connection counts: it is the host of the node that refuses. A timeout counts only when part of an
    /// answer was there: a kept connection over a cut network waits just as one to a hung process does.
    pub fn reached(self) -> bool {
        match self {
            Self::Connected
            | Self::Answered(_)
            | Self::UnexpectedStatus(_)
            | Self::TextMissing(_)
            | Self::Serving
            | Self::NotServing(_)
            | Self::GrpcStatus(_)
            | Self::NotGrpc(_)
            | Self::Tls(_)
            | Self::TooMuch
            | Self::Refused
            | Self::TimedOut(Phase::Reading)
            | Self::Closed
            | Self::Reset
            | Self::NotHttp(_)
            | Self::HeadTooLarge => true,
            Self::TimedOut(_) | Self::Forbidden | Self::Io(_) | Self::Local(_) => false,
        }
    }

    /// Whether this is trouble of this machine, which is not the node's fault: the result is thrown away.
    pub fn is_local_trouble(self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// The status of the answer, where there was one.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Answered(status) | Self::UnexpectedStatus(status) | Self::TextMissing(status) => {
                Some(status)
            }
            _ => None,
        }
    }

    /// One stable word for the JSON of `why` and for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected | Self::Answered(_) | Self::Serving => "success",
            Self::UnexpectedStatus(_) => "status",
            Self::TextMissing(_) => "body",
            Self::Refused => "refused",
            Self::TimedOut(_) => "timeout",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::NotHttp(_) => "not_http",
            Self::HeadTooLarge | Self::TooMuch => "too_large",
            Self::NotServing(_) => "not_serving",
            Self::GrpcStatus(_) => "grpc_status",
            Self::NotGrpc(_) => "not_grpc",
            Self::Tls(_) => "tls",
            Self::Forbidden => "forbidden",
            Self::Io(_) => "network",
            Self::Local(_) => "local",
        }
    }

    /// What an error of the operating system means for a probe in this phase.
    pub(crate) fn from_io(error: &io::Error, phase: Phase) -> Self {
        match error.raw_os_error() {
            Some(EMFILE | ENFILE) => return Self::Local(LocalTrouble::Descriptors),
            Some(ENOBUFS) => return Self::Local(LocalTrouble::Memory),
            // EACCES has the same kind but is no local trouble: routers cause it by answering "prohibited".
            Some(EPERM) => return Self::Local(LocalTrouble::Denied),
            _ => {}
        }
        match error.kind() {
            io::ErrorKind::AddrNotAvailable => Self::Local(LocalTrouble::Ports),
            io::ErrorKind::OutOfMemory => Self::Local(LocalTrouble::Memory),
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Self::Reset
            }
            io::ErrorKind::UnexpectedEof => Self::Closed,
            io::ErrorKind::TimedOut => Self::TimedOut(phase),
            kind => Self::Io(kind),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Answered(status) => write!(f, "status {status}"),
            Self::UnexpectedStatus(status) => write!(f, "unexpected status {status}"),
            Self::TextMissing(status) => {
                write!(f, "status {status}, but the start of the body does not contain the text")
            }
            Self::Refused => f.write_str("connection refused"),
            Self::TimedOut(phase) => write!(f, "timed out while {phase}"),
            Self::Closed => f.write_str("connection closed before the answer was complete"),
            Self::Reset => f.write_str("connection reset before the answer was complete"),
            Self::NotHttp(what) => write!(f, "not an HTTP/1 answer: {what}"),
            Self::HeadTooLarge => f.write_str("headers are larger than 16 KiB"),
            Self::Serving => f.write_str("SERVING"),
            Self::NotServing(said) => write!(f, "the health service says {said}"),
            Self::GrpcStatus(status) => write!(f, "gRPC status {status}"),
            Self::NotGrpc(what) => write!(f, "not an answer of gRPC: {what}"),
            Self::Tls(what) => write!(f, "TLS failed: {what}"),
            Self::TooMuch => f.write_str("the answer and what is around it are larger than 128 KiB"),
            Self::Forbidden => f.write_str("this server may not connect to that address"),
            Self::Io(kind) => write!(f, "{kind}"),
            Self::Local(trouble) => write!(f, "not probed: {trouble}"),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Securing => "agreeing on TLS",
            Self::Writing => "sending the request",
            Self::Waiting => "waiting for the answer",
            Self::Reading => "reading the answer",
        })
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StatusLine => "its first line is no status line",
            Self::Header => "a header line is broken",
            Self::EndlessInterim => "interim answers without end",
        })
    }
}

impl fmt::Display for LocalTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "this server has no file descriptor left",
            Self::Ports => "this server has no local address or port left to connect from",
            Self::Memory => "this server has no memory left for a socket",
            Self::Denied => "this server's own firewall forbids the connection",
            Self::Crowded => "this server is opening too many connections already",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_stays_small_enough_to_keep_the_last_ones_of_every_node() {
        assert!(size_of::<Outcome>() <= 4, "{} bytes", size_of::<Outcome>());
    }

    #[test]
    fn trouble_of_this_machine_is_never_taken_for_a_fault_of_the_node() {
        for number in [EPERM, EMFILE, ENFILE, ENOBUFS, 12 /* ENOMEM */, 99 /* EADDRNOTAVAIL */] {
            let error = io::Error::from_raw_os_error(number);
            let outcome = Outcome::from_io(&error, Phase::Connecting);
            assert!(outcome.is_local_trouble(), "{error} became {outcome:?}");
            assert!(!outcome.is_success() && !outcome.reached());
        }
    }

    #[test]
    fn what_the_network_says_is_held_against_the_node() {
        for (number, expected) in [
            (111, Outcome::Refused),
            (104, Outcome::Reset),
            (32, Outcome::Reset),
            (110, Outcome::TimedOut(Phase::Connecting)),
            (113, Outcome::Io(io::ErrorKind::HostUnreachable)),
            (101, Outcome::Io(io::ErrorKind::NetworkUnreachable)),
            (13, Outcome::Io(io::ErrorKind::PermissionDenied)),
        ] {
            let outcome = Outcome::from_io(&io::Error::from_raw_os_error(number), Phase::Connecting);
            assert_eq!(outcome, expected);
            assert!(!outcome.is_success() && !outcome.is_local_trouble());
        }
    }

    #[test]
    fn any_answer_proves_the_way_and_silence_does_not() {
        for outcome in
            [Outcome::Answered(200), Outcome::UnexpectedStatus(500), Outcome::Refused, Outcome::Closed]
        {
            assert!(outcome.reached(), "{outcome}");
        }
        for phase in [Phase::Connecting, Phase::Securing, Phase::Writing, Phase::Waiting] {
            assert!(!Outcome::TimedOut(phase).reached(), "{phase}");
        }
    }
}
