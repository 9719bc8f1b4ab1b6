//! Words of the API that requests and answers have in common.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::courier;

/// What a callback's body looks like.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum Format {
    /// `{"type", "timestamp", "data", "tracking"}`, as Standard Webhooks suggests.
    Envelope,
    /// The operation as Graph last sent it, byte for byte, or `null` where it never did. All else is
    /// in headers: `bridge-type`, `bridge-timestamp`, `bridge-operation` (our id of it),
    /// `bridge-client-state`, `bridge-outcome` or `bridge-reason`, `bridge-polls`,
    /// `bridge-registered-at`, `bridge-connection`; those that have no value are left out. What cannot
    /// stand in a header is percent-encoded: all but visible ASCII, and `"` and `%`.
    Operation,
    /// An event of CloudEvents 1.0 in its structured form.
    CloudEvents,
}

/// What a caller may want to hear of besides the end.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum Notice {
    /// Graph has said `running` for the first time.
    Running,
}

impl From<Format> for courier::Format {
    fn from(word: Format) -> Self {
        match word {
            Format::Envelope => Self::Envelope,
            Format::Operation => Self::Operation,
            Format::CloudEvents => Self::CloudEvents,
        }
    }
}

impl From<courier::Format> for Format {
    fn from(format: courier::Format) -> Self {
        match format {
            courier::Format::Envelope => Self::Envelope,
            courier::Format::Operation => Self::Operation,
            courier::Format::CloudEvents => Self::CloudEvents,
        }
    }
}
