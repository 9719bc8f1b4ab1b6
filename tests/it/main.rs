//! One test binary: links once, runs in parallel, and reads as the table of contents.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should say so at once"
)]

mod answers;
mod api;
mod architecture;
mod commits;
mod container;
mod contract;
mod damage;
mod delivery;
mod deploy;
mod dialling;
mod egress;
mod fairness;
mod handshakes;
mod hostile;
mod identities;
mod lanes;
mod metrics;
mod outside;
mod plans;
mod process;
mod rekeying;
mod replicas;
mod rules;
mod samples;
mod schemas;
mod sign_in;
mod simulation;
mod slow_start;
mod support;
mod waking;
mod words;
mod world;
