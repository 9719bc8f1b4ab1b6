//! How much one bridge does, measured on the real binary from outside, beside what the machine
//! itself can do at the most.
//!
//! `cargo bench --bench load` measures everything and prints one table; `-- registrations` and the
//! like measure a part. Everything runs on this machine and on loopback: the binary as a process,
//! and in this one the sandbox, a sink that takes callbacks, and the callers. So they share the
//! processors; the CPU seconds are those of the bridge's process alone.
//!
//! # What was learned
//!
//! Where profiles led, before and after, on two virtual cores that had other work to do both times
//! (24 November 2026; the README has the numbers of a quiet run):
//!
//! | | before | after |
//! |---|---|---|
//! | registrations at 128 connections | 10,150/s, p99 26.5 ms, 0.112 CPU-s per 1,000 | 14,254/s, p99 17.3 ms, 0.077 |
//! | whole lives | 1,803/s, 0.417 CPU-s per 1,000 | 4,684/s, 0.276 |
//! | start with 1,000,000 operations | not within ten minutes | at once |
//!
//! * SQLite counted its memory under a lock at every allocation, checked arguments twice, and planned
//!   statements anew for the values they were given: see `.cargo/config.toml` and `QPSG` in the store.
//! * Each job of the writer had a savepoint, which copies every page that is written. Now a group of
//!   jobs is run without, and run again one by one in the rare case that one of them fails.
//! * Each request read its API key from the database in another thread, and each poll that ended was
//!   logged twice.
//! * Each step of a lane read and wrote the lane; now a commit does so once for all its steps.
//! * Looking for lanes that nobody uses went through all steps for each of them, in the writer. With
//!   125,000 lanes and a million steps nothing else was done for minutes.
//!
//! Then, for claims of 8 polls, on the same machine with nothing else to do (25 November 2026):
//!
//! | | before | after |
//! |---|---|---|
//! | among 10,000 operations | p50 0.9 ms, p99 6.6 ms | p50 0.8 ms, p99 1.3 ms |
//! | among 1,000,000 operations | p50 2.6 ms, p99 17.5 ms | p50 1.1 ms, p99 2.9 ms |
//! | registrations at 128 connections | 12,684/s, p99 19.5 ms | 14,557/s, p99 17.9 ms |
//!
//! * Steps were known by the 35 letters of their ids, in a table and two indexes. Known by numbers, more
//!   of them share a page, and a million of them nearly fit into the cache.
//! * A commit that took the log over a thousand pages folded all of it into the database, while all
//!   others waited. Now another thread does so.
//! * The measurement itself took what a start finds, a cold cache, for the usual.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on should say so at once, and reads the clock"
)]

mod bridge;
mod caller;
#[path = "../../tests/it/support/postgres.rs"]
#[expect(dead_code, reason = "tests need more of it")]
mod cluster;
mod fairness;
mod floor;
mod postgres;
mod sink;
mod soak;
mod storage;
mod work;

use std::io::IsTerminal as _;

/// One line of the table.
struct Row {
    what: String,
    figure: String,
}

/// What has been measured so far.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn add(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        let row = Row { what: what.into(), figure: figure.into() };
        eprintln!("  {}: {}", row.what, row.figure);
        self.0.push(row);
    }

    /// As Markdown, to be read where it is piped to, or pasted into the README.
    fn print(&self) {
        let width = self.0.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
        let figures = self.0.iter().map(|row| row.figure.chars().count()).max().unwrap_or(0);
        println!("| {:<width$} | {:<figures$} |", "", "");
        println!("|{}|{}|", "-".repeat(width + 2), "-".repeat(figures + 2));
        for Row { what, figure } in &self.0 {
            println!("| {what:<width$} | {figure:<figures$} |");
        }
    }
}

#[tokio::main]
async fn main() {
    // Cargo says `--bench` to every benchmark.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|it| part.contains(&**it));
    let mut table = Table::default();
    // Not part of the numbers: `tests/soak` says for how long.
    if let Ok(minutes) = std::env::var("SOAK_MINUTES") {
        let minutes = minutes.parse().expect("SOAK_MINUTES is a number");
        soak::measure(&mut table, minutes).await;
        return table.print();
    }
    for (part, measure) in PARTS {
        if is_wanted(part) {
            eprintln!("{part}");
            measure(&mut table).await;
        }
    }
    if std::io::stdout().is_terminal() {
        println!();
    }
    table.print();
}

type Measure = for<'a> fn(&'a mut Table) -> futures_util::future::BoxFuture<'a, ()>;

const PARTS: [(&str, Measure); 10] = [
    ("floor", |table| Box::pin(floor::measure(table))),
    ("registrations", |table| Box::pin(work::registrations(table))),
    ("lives", |table| Box::pin(work::lives(table))),
    ("draining", |table| Box::pin(work::draining(table))),
    ("latency", |table| Box::pin(work::latency(table))),
    ("fairness", |table| Box::pin(fairness::measure(table))),
    ("storage", |table| Box::pin(storage::measure(table))),
    ("postgres-floor", |table| Box::pin(postgres::floor(table))),
    ("postgres-replicas", |table| Box::pin(postgres::replicas(table))),
    ("postgres-growth", |table| Box::pin(postgres::growth(table))),
];

/// A number with its thousands apart.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The value below which so many hundredths of the values lie.
pub(crate) fn percentile<T: Copy + Ord>(sorted: &[T], hundredths: usize) -> T {
    let index = (sorted.len() * hundredths).div_ceil(100).clamp(1, sorted.len());
    sorted[index - 1]
}
