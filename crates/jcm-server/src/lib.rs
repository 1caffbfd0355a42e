//! One JCM server: definitions in, verdicts out.
//!
//! Read in this order: [`server`](self) numbers the steps of start and stop and shows who owns whom; `registry` and
//! `catalog` are a definition's way in; `checker` and `views` are a verdict's way out; `peers` is how servers
//! talk to one another; `http`, `discovery` and
//! `classic` are the doors, behind the one port of `listen`.

mod app;
mod catalog;
mod checker;
mod classic;
mod clearing;
mod cli;
mod config;
mod convergence;
mod damping;
mod data_dir;
mod definitions;
mod demo;
mod digest;
mod discovery;
mod doors;
mod grpc;
mod http;
mod leases;
mod listen;
mod measure;
mod pause;
#[expect(dead_code, reason = "nobody asks the other servers yet")]
mod peers;
mod registry;
mod saved;
mod server;
mod snapshot;
mod staleness;
mod subscribers;
mod verdicts;
mod views;

pub use cli::Cli;
pub use server::run;
