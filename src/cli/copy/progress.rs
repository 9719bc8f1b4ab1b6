//! How far a copy has come: a line that changes where somebody watches, and else one in the log now
//! and then.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::output::{is_watched, status};

/// Between two of them.
const ON_THE_LINE: Duration = Duration::from_millis(100);
const IN_THE_LOG: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    doing: &'static str,
    total: u64,
    done: u64,
    /// Of those that are done, how many were before this began.
    before: u64,
    began: Instant,
    told: Instant,
    is_watched: bool,
}

impl Progress {
    pub(super) fn begin(doing: &'static str, total: u64) -> Self {
        let (began, is_watched) = (Instant::now(), is_watched());
        Self { doing, total, done: 0, before: 0, began, told: began, is_watched }
    }

    /// So many rows need nothing to be done.
    pub(super) fn skip(&mut self, rows: u64) {
        self.before += rows;
        self.done += rows;
    }

    pub(super) fn advance(&mut self, table: &str, rows: usize) {
        self.done += rows as u64;
        let between = if self.is_watched { ON_THE_LINE } else { IN_THE_LOG };
        if self.told.elapsed() < between {
            return;
        }
        self.told = Instant::now();
        let Self { doing, total, done, .. } = *self;
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let per_second = (done - self.before).saturating_mul(1_000) / millis;
        let seconds_left = total.saturating_sub(done) / per_second.max(1);
        let percent = done.saturating_mul(100) / total.max(1);
        if self.is_watched {
            status(format_args!(
                "{doing} {table}: {done} of {total} rows, {percent} %, {per_second}/s, \
                 {seconds_left} s left"
            ));
        } else {
            tracing::info!(
                table,
                done,
                total,
                per_second,
                seconds_left,
                "{doing} {table}: {percent} % of all rows"
            );
        }
    }
}

impl Drop for Progress {
    /// Leaves nothing on the line.
    fn drop(&mut self) {
        if self.is_watched {
            status("");
        }
    }
}
