//! The program from outside: its own process, a home of its own, and servers that answer as a test tells them.
//!
//! Whether real servers answer in these shapes is tried by the suites of the workspace's `tests` package; here it is
//! about what this program sends, prints and exits with.

mod commands;
mod failover;
mod formats;
mod program;
mod scripted;
