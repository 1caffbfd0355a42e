//! What JCM does, seen from outside: one module a suite, one test a sentence.

mod bad_input;
mod checks;
mod cli;
mod crash;
mod definitions;
mod harness;
mod lifecycle;
mod push;
