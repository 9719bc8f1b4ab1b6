//! The binary: everything is in the library, where tests can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    engagement_bridge::cli::run()
}
