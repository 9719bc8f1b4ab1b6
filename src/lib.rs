//! Tracks long-running Viva Engage operations of Microsoft Graph for other apps, and tells each app
//! by one signed callback how its operation ended.
//!
//! An app registers an operation with a callback URL over REST. The bridge polls Graph on the app's
//! behalf, within Graph's rules, through crashes, and then owes the callback until it is delivered
//! or listed as undeliverable. One process with one database file does all of it, or several that
//! share a PostgreSQL.
//!
//! # The map
//!
//! In the order in which they are best read:
//!
//! * [`operation`], [`callback`], [`lane`] decide. Pure rules: the life of an operation, the life of
//!   a callback, and the budgets they share. What happens next is derived from the state.
//! * [`store`] remembers: the contract in prose, its backends, and how one takes another's place.
//!   [`vault`] seals what must not be read from a stolen database.
//! * [`graph`] asks Microsoft Graph. [`courier`] tells the receiver. Each knows one outside system.
//!   [`tls`] is what both trust.
//! * [`worker`] acts: claims what is due, takes the step, commits what came of it. Beside that, little by
//!   little, it sends again what was asked for in bulk, and forgets what has been at rest for long.
//! * [`api`] listens: it stores and nudges. Who may do what is decided in one place (`api::access`), which
//!   also has each change written to the audit log ([`store::AuditLog`]). [`nudge`] is how it wakes the
//!   worker. [`handshake`] has receivers asked whether they want callbacks, where the operator wishes it.
//! * [`sign_in`] lets people and apps in by a token of Microsoft Entra, in place of an API key.
//! * [`provision`] sets up callers, for the API and the command line alike.
//! * [`sandbox`] stands in for Graph and Entra where there is no tenant.
//! * [`cli`] is the command line, one file for each command. [`config`] reads its settings.
//! * [`metrics`] counts what the shells do; the rules know nothing of it. [`traces`] tells a
//!   collector what has become of each operation.
//! * [`serve`] puts everything together; [`telemetry`], [`shutdown`] and [`clock`] are what any
//!   service needs.
//!
//! # Invariants
//!
//! Named by what is absent; `tests/it/architecture.rs` holds them.
//!
//! * Nothing in `operation`, `callback` and `lane` waits, fails, does I/O, serialises, logs, or
//!   reads a clock. Jitter is hashed, not drawn. So a replay of the same history is the same.
//! * No state is kept in memory that a crash may not take: the next step is read off the store, and
//!   a wake-up carries urgency, never content.
//! * No change is made through the API that is not in the audit log already, but for registrations,
//!   which are their own record. So an entry may tell of a change that was not made, and no change is
//!   made that none tells of.
//! * No commit takes effect without the newest claim of its step. No transaction is held while
//!   anything outside is asked.
//! * `graph` and `courier` know neither the store nor each other, and no error of theirs goes
//!   further than an event in a life.
//! * Nothing is dialled for a callback but what the guard ([`courier::egress`]) hands out, and only
//!   `courier::exit` dials it.
//! * `api` never takes a step, `worker` never sees a request, and neither names a database.
//! * Only [`serve`] and the commands name implementations. Only `clock` reads the clock. Only
//!   `config` reads the environment.
//!
//! # Where this departs from the usual, and why
//!
//! * A lane's slot counts from the *answer* on, not from the claim (see [`lane`]): only so is the
//!   rate exact at Graph's end, whatever the network and the token endpoint do in between.
//! * A callback's id is derived from its operation's (see [`callback::CallbackId`]): a final
//!   callback that were owed twice by some fault would still be one message to its receiver.
//! * A token refused with 401 is renewed for the *next* poll, not retried at once, for a retry
//!   would be a second poll within 30 s.
//! * Plans follow a time that does not jump when the machine's clock is set (see
//!   [`clock::Steady`]), and a poll is over, one way or another, a whole interval before its lease
//!   ends: no two polls meet within 30 s, not even of two workers one of which was stopped.
//! * Callbacks are sent by hyper's client and not by reqwest, which sends everything else: its
//!   connector can be the guard, through a proxy too, where reqwest would hand over the name.
//! * What lapses (deadlines, the age of a callback) is claimed without its lane, so that a paused
//!   lane cannot keep an operation from ending.

pub mod api;
pub mod callback;
pub mod cli;
pub mod clock;
pub mod config;
pub mod courier;
pub mod graph;
pub mod handshake;
pub mod lane;
pub mod metrics;
pub mod names;
pub mod nudge;
pub mod operation;
pub mod provision;
pub mod sandbox;
pub mod serve;
pub mod shutdown;
pub mod sign_in;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod traces;
pub mod vault;
pub mod worker;

#[cfg(test)]
mod tests;

/// The README's Rust is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
