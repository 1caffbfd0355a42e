//! Whether nodes work: probes that ask them, and the judge that makes a verdict of the answers.
//!
//! Decisions are pure and sit in [`judge`]; effects sit behind the [`engine::Engine`] seam. An engine says what it
//! saw and never what that means; the judge says what it means and never looks. Whatever goes wrong on this machine
//! (a pause, starvation, no descriptors) is never held against a node.
//!
//! Deliberately absent: the store, gRPC and every other server. Whoever owns a node's record asks peers for a second
//! opinion and hands the answer to the judge.

pub mod engine;
pub mod evidence;
pub mod hold;
pub mod judge;
pub mod once;
pub mod outcome;
pub mod ring;
pub mod trust;

pub use engine::reactor::{Options, ReactorEngine};
pub use engine::reports::{ReportSender, Reports};
pub use engine::{Engine, Report, Stats, Target, TargetKey};
pub use evidence::{Evidence, Sample};
pub use judge::{Cause, Judge, Need, Opinion, Step, Turn};
pub use once::{NotProbed, OnceProber, Probed};
pub use outcome::{
    GrpcStatus, LocalTrouble, Malformed, NotGrpc, NotServing, Outcome, Phase, Phases, TlsFault,
};
pub use ring::Ring;
pub use trust::{Trust, TrustError};
