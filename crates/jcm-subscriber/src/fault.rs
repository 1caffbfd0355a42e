//! What a failed call says about its node and about calling again.

use std::error::Error;
use std::io;

/// How deep the causes of an error are looked into; deeper ones say nothing about the connection.
const CAUSES_MAX: usize = 16;

/// What a failed call says about its node and about calling again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The node did not take the call: nothing was carried out, and another node may be asked whatever the call is.
    Refused,
    /// The node failed with the call under way: it may have been carried out.
    Broken,
    /// The node works, and its answer is no. Another one would say the same.
    Answered,
}

/// An error that knows its [`Fault`]. For errors of other crates wrap them in [`Failed`].
pub trait Faulty {
    /// What it says about the node and about calling again.
    fn fault(&self) -> Fault;

    /// Whether the call could be made again at all: not where what it was to send is used up. Unless said otherwise it
    /// can.
    fn can_repeat(&self) -> bool {
        true
    }
}

impl Faulty for io::Error {
    fn fault(&self) -> Fault {
        of_kind(self.kind())
    }
}

/// By the first [`io::Error`] among its causes; without one it is [`Fault::Broken`].
impl Faulty for Box<dyn Error + Send + Sync> {
    fn fault(&self) -> Fault {
        of_causes(self.as_ref())
    }
}

/// `UNAVAILABLE` is a refusal where no connection came about, else broken; so are `DEADLINE_EXCEEDED`, `ABORTED`, `UNKNOWN`,
/// `INTERNAL` and `DATA_LOSS`. The other codes are answers.
impl Faulty for tonic::Status {
    fn fault(&self) -> Fault {
        use tonic::Code;
        match self.code() {
            Code::Unavailable => of_causes(self),
            Code::DeadlineExceeded | Code::Aborted | Code::Unknown | Code::Internal | Code::DataLoss => {
                Fault::Broken
            }
            _ => Fault::Answered,
        }
    }
}

pub(crate) fn of_causes(error: &(dyn Error + 'static)) -> Fault {
    causes(error).find_map(|error| error.downcast_ref::<io::Error>()).map_or(Fault::Broken, Faulty::fault)
}

/// An error and what led to it.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source()).take(CAUSES_MAX)
}

/// Whether hyper gave a request back that it had not begun to send.
#[cfg(any(feature = "reqwest", feature = "tonic"))]
pub(crate) fn is_unsent(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
}

fn of_kind(kind: io::ErrorKind) -> Fault {
    match kind {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable => Fault::Refused,
        _ => Fault::Broken,
    }
}

/// An error of any kind with the [`Fault`] that its owner knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed<E> {
    /// What happened.
    pub error: E,
    /// What that says about the node and about calling again.
    pub fault: Fault,
}

impl<E> Failed<E> {
    /// The node did not take the call.
    pub fn refused(error: E) -> Self {
        Self { error, fault: Fault::Refused }
    }

    /// The node failed with the call under way.
    pub fn broken(error: E) -> Self {
        Self { error, fault: Fault::Broken }
    }

    /// The node's answer is no.
    pub fn answered(error: E) -> Self {
        Self { error, fault: Fault::Answered }
    }
}

impl<E> Faulty for Failed<E> {
    fn fault(&self) -> Fault {
        self.fault
    }
}

impl<E: std::fmt::Display> std::fmt::Display for Failed<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl<E: Error> Error for Failed<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_did_not_come_about_is_a_refusal_and_all_else_may_have_been_done() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(refused().fault(), Fault::Refused);
        assert_eq!(io::Error::from(io::ErrorKind::ConnectionReset).fault(), Fault::Broken);
        let boxed: Box<dyn Error + Send + Sync> = Box::new(Failed::answered(io::Error::other(refused())));
        assert_eq!(boxed.fault(), Fault::Broken, "a wrapper's source is that of what it wraps");
        assert_eq!(tonic::Status::from_error(Box::new(refused())).fault(), Fault::Broken, "an unknown code");
        let mut unavailable = tonic::Status::unavailable("no connection");
        assert_eq!(unavailable.fault(), Fault::Broken);
        unavailable.set_source(std::sync::Arc::new(refused()));
        assert_eq!(unavailable.fault(), Fault::Refused);
        assert_eq!(tonic::Status::not_found("no such order").fault(), Fault::Answered);
    }
}
