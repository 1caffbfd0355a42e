//! What JCM does, seen from outside: one module a suite, one test a sentence.

mod harness;

mod apply;
mod bad_input;
mod bad_requests;
mod conditions;
mod definitions;
mod grpc;
mod nodes;

mod fleet;
mod leases;
mod probes;
mod protocols;
mod routing;
mod verdicts;

mod convergence;
mod integrations;
mod long_poll;
mod pick;
mod push;
mod registration;

mod classic;
mod classic_calls;
mod cli;

mod config;
mod crash;
mod data;
mod lifecycle;
mod outage;
mod slow_clients;
mod streams;

mod check_run;
mod checked;
mod fixtures;
mod keeper;
mod refusal;
