//! Steps that cannot be taken, for their rows cannot be read: told to the operator, within bounds.

use super::StoreError;

/// So many of a claim are told of in full.
const TOLD: usize = 4;

/// The steps of one claim that were passed over.
///
/// One row that cannot be read must not keep all others from their steps. It stays claimed, so it comes
/// up again, and is told of again, once in a lease.
#[derive(Debug, Default)]
pub(super) struct BrokenSteps {
    seen: usize,
}

impl BrokenSteps {
    /// Passes over a step: that of a callback by its number, or a poll where that is 0. Without an error,
    /// something that its row refers to is gone.
    pub(super) fn pass_over(&mut self, operation: i64, callback: i64, error: Option<&StoreError>) {
        self.seen += 1;
        if self.seen > TOLD {
            return;
        }
        let cause = error.map(|error| error.in_full().to_string());
        tracing::error!(
            operation,
            callback,
            error = cause.as_deref().unwrap_or("something that it refers to is gone"),
            "cannot take the step of callback {callback} (0 for the poll) of the operation with number \
             {operation}: its row is broken",
        );
    }
}

impl Drop for BrokenSteps {
    fn drop(&mut self) {
        if self.seen > TOLD {
            let more = self.seen - TOLD;
            tracing::error!(more, "cannot take {more} other steps either: their rows are broken");
        }
    }
}
