//! The bridge's rules, workers and store in a world whose every misfortune is drawn before it
//! begins.
//!
//! What is real: the pure core, the worker's loop with its committer, the stores, the steady clock.
//! What is simulated: time, which jumps to whatever is next; Graph and the receivers, at the traits
//! by which the worker knows them; the callers; the machine's clock, which somebody sets; the calls
//! of the store, which are refused, or done with their reply lost, or stalled past their lease; and
//! kills of the process, which take every task along wherever it is. A process has two workers on
//! one store, with a nudge each, as two replicas would have. The same in memory, on a file, and on a
//! PostgreSQL.
//!
//! What counts as failure stands in [`judge`]. What explicitly does not: a callback told twice
//! where an answer, a commit or the process was lost; a poll repeated an interval later for the
//! same reasons; waiting for as long as a pause, a lease or a stall lasts.
//!
//! That it can fail is shown by `tests/plant`: a list of faults, each planted in the product and seen
//! caught, by this or by the check that is named beside it.
//!
//! `tests/simulate --plans 100000 --seed 7` lives through as many as you like. A plan that fails is
//! made smaller and printed, with its story, and `--only` lives through it again.

mod judge;
mod outside;
mod plan;
mod run;
mod unreliable;

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::strategy::{Strategy as _, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::plan::{Plan, any_plan};
use self::run::{Disk, live};

/// How often a plan that failed is made smaller at the most.
const SHRINKS: u32 = 3_000;

/// Lives through a plan, and says what is wrong with how it went, after its story.
fn try_plan(plan: &Plan, disk: fn() -> Disk) -> Result<String, String> {
    let lived = std::panic::catch_unwind(|| {
        let ending = live(plan, &disk())?;
        let log = ending.outside.log();
        match judge::judge(&ending) {
            Ok(()) => Ok(log),
            Err(wrong) => Err(format!("{log}\n{wrong}")),
        }
    });
    lived.unwrap_or_else(|_| Err("it panicked, as is told above".to_owned()))
}

/// The plan of this number, and how to make it smaller.
fn drawn(seed: u64, number: u32) -> Box<dyn ValueTree<Value = Plan>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8..12].copy_from_slice(&number.to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    any_plan().boxed().new_tree(&mut runner).unwrap()
}

/// The smallest plan that is found to fail in place of this one, and how it failed.
fn smallest(seed: u64, number: u32, disk: fn() -> Disk) -> (Plan, String) {
    let mut tree = drawn(seed, number);
    let mut found = (tree.current(), try_plan(&tree.current(), disk).unwrap_err());
    for _ in 0..SHRINKS {
        match try_plan(&tree.current(), disk) {
            Err(wrong) => {
                found = (tree.current(), wrong);
                if !tree.simplify() {
                    break;
                }
            }
            Ok(_) => {
                if !tree.complicate() {
                    break;
                }
            }
        }
    }
    found
}

#[expect(clippy::disallowed_methods, reason = "a test is set by whoever runs it")]
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Lives through many plans, on all cores. `tests/simulate` says how many, and which.
#[expect(clippy::print_stdout, reason = "progress of what may take hours")]
fn live_through(usually: u32, disk: fn() -> Disk) {
    let seed = setting("SIMULATION_SEED").unwrap_or(1);
    let only = setting("SIMULATION_ONLY").map(|it| u32::try_from(it).unwrap());
    let asked = setting("SIMULATION_PLANS").map(|it| u32::try_from(it).unwrap());
    let (first, last) = match only {
        Some(only) => (only, only + 1),
        None => (0, asked.unwrap_or(usually)),
    };
    let (next, failed) = (AtomicU32::new(first), AtomicU32::new(u32::MAX));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if last <= number || failed.load(Ordering::SeqCst) != u32::MAX {
                return;
            }
            if try_plan(&drawn(seed, number).current(), disk).is_err() {
                failed.fetch_min(number, Ordering::SeqCst);
            }
            if number % 1_000 == 999 {
                println!("{} of {last} plans", number + 1);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner();
    if failed != u32::MAX {
        let (plan, wrong) = smallest(seed, failed, disk);
        panic!(
            "plan {failed} of seed {seed} fails; this is the smallest that does:\n{plan:?}\n\n\
             {wrong}\n\nAgain: tests/simulate --seed {seed} --only {failed}"
        );
    }
}

#[test]
fn five_thousand_worlds_in_memory() {
    live_through(5_000, Disk::memory);
}

#[test]
fn three_hundred_worlds_on_a_file_that_is_reopened_after_each_kill() {
    live_through(300, Disk::file);
}

#[test]
fn sixty_worlds_on_postgres() {
    live_through(60, Disk::server);
}

#[test]
fn the_same_seed_twice_is_the_same_story() {
    for disk in [Disk::memory, Disk::file] {
        for number in 0..20 {
            let story = || try_plan(&drawn(2, number).current(), disk).unwrap();
            assert_eq!(story(), story(), "plan {number}");
        }
    }
}
