use std::time::Duration;

use crate::callback::Reply;
use crate::operation::{Answer, Event, Hindrance};

/// What a lane learns from a step that it admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Report {
    /// Nothing was sent, so nothing counts.
    Unused,
    /// Something was sent, and the answer says nothing about the lane.
    Indifferent,
    /// The other side is well.
    Well,
    /// The other side wants less, or is not there.
    Unwell { retry_after: Option<Duration> },
}

impl Report {
    /// What the Graph lane learns. A 429 is about the identity; all else is about one operation
    /// or about Graph as a whole, and pauses nobody.
    pub fn of_poll(event: Event) -> Self {
        match event {
            Event::Polled(Answer::Throttled { retry_after }) => Self::Unwell { retry_after },
            Event::Polled(
                Answer::StillRunning { .. } | Answer::Undecided { .. } | Answer::Finished(_),
            ) => Self::Well,
            Event::Polled(
                Answer::Rejected
                | Answer::CredentialRefused { .. }
                | Answer::Missing
                | Answer::Gone
                | Answer::Trouble { .. },
            ) => Self::Indifferent,
            Event::Unpolled(Hindrance::Trouble { .. } | Hindrance::Refused(_))
            | Event::CredentialRenewed
            | Event::CancelRequested
            | Event::Lapsed => Self::Unused,
        }
    }

    /// What the callback lane learns. A receiver that blames the message is alive, so its other
    /// messages need not wait.
    pub fn of_attempt(reply: Reply) -> Self {
        match reply {
            Reply::Accepted => Self::Well,
            Reply::Unwell { retry_after } => Self::Unwell { retry_after },
            Reply::Refused { .. } | Reply::Gone => Self::Indifferent,
            Reply::AddressRefused => Self::Unused,
        }
    }
}
