//! Tries a connection out: gets a token, asks Graph once with it, and says what is missing.
//!
//! The numbers after `AADSTS` are for people, and here they become words for people. Nothing is decided
//! by them.

use async_trait::async_trait;

use super::{Complaint, Connection};

/// Tries connections out.
#[async_trait]
pub trait Examiner: Send + Sync {
    /// Gets a new token for `connection` of `caller` and asks Graph once with it, for an operation that
    /// cannot exist.
    ///
    /// Takes no slot of the connection's lane, which leaves two of the ten requests that Graph grants
    /// in 30 s: these are the two. So of one identity a third test within 30 s is refused, and of proofs
    /// that Entra has yet to take a caller's third.
    async fn examine(&self, connection: &Connection, caller: &str) -> Result<Examination, TooSoon>;
}

/// The identity was tried out a moment ago.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this identity was tried out a moment ago: wait {} s", wait.as_secs() + 1)]
pub struct TooSoon {
    pub wait: std::time::Duration,
}

/// What was found out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Examination {
    pub finding: Finding,
    /// What Entra said, where there is no token.
    pub complaint: Complaint,
    /// What Graph said, where it was asked.
    pub graph: Option<GraphSaid>,
}

/// Graph's answer to the one request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GraphSaid {
    pub status: u16,
    /// `error.code`.
    pub code: Option<String>,
    pub request_id: Option<String>,
}

/// What is the matter with a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Finding {
    Works,
    UnknownTenant,
    UnknownApp,
    ProofRefused,
    ProofExpired,
    ConsentMissing,
    WrongCloud,
    TokenRefused,
    PermissionMissing,
    Throttled,
    NoProof,
    Trouble,
}

impl Finding {
    pub const ALL: [Self; 12] = [
        Self::Works,
        Self::UnknownTenant,
        Self::UnknownApp,
        Self::ProofRefused,
        Self::ProofExpired,
        Self::ConsentMissing,
        Self::WrongCloud,
        Self::TokenRefused,
        Self::PermissionMissing,
        Self::Throttled,
        Self::NoProof,
        Self::Trouble,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::UnknownTenant => "unknownTenant",
            Self::UnknownApp => "unknownApp",
            Self::ProofRefused => "proofRefused",
            Self::ProofExpired => "proofExpired",
            Self::ConsentMissing => "consentMissing",
            Self::WrongCloud => "wrongCloud",
            Self::TokenRefused => "tokenRefused",
            Self::PermissionMissing => "permissionMissing",
            Self::Throttled => "throttled",
            Self::NoProof => "noProof",
            Self::Trouble => "trouble",
        }
    }

    /// What to do, for who set the connection up.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Works => "Entra hands out a token, and Graph takes it.",
            Self::UnknownTenant => {
                "Entra knows no such tenant: give the directory's GUID, or one of its domain names, \
                 in this cloud."
            }
            Self::UnknownApp => {
                "The tenant has no such app: check the client id, and that an administrator of the \
                 tenant has consented to the app."
            }
            Self::ProofRefused => {
                "Entra knows the app, but not by this proof: give the value of a client secret (not \
                 its id), a certificate that was uploaded to the app, or a token that one of its \
                 federated credentials names."
            }
            Self::ProofExpired => "The secret or certificate has expired: make a new one in Entra.",
            Self::ConsentMissing => {
                "An administrator of the tenant has not consented: grant admin consent to the \
                 application permission Community.Read.All."
            }
            Self::WrongCloud => {
                "The tenant is in another of Microsoft's clouds than the Graph that this bridge polls."
            }
            Self::TokenRefused => {
                "Graph does not take the token that Entra hands out: they may belong to different \
                 clouds."
            }
            Self::PermissionMissing => {
                "Graph takes the token and denies access: grant the application permission \
                 Community.Read.All with admin consent, and see that the tenant has Viva Engage in \
                 native mode."
            }
            Self::Throttled => {
                "Graph took the token, and says that this identity's budget is spent: try again in \
                 half a minute."
            }
            Self::NoProof => {
                "The bridge cannot prove who it is; its log says why. That is for its operator to \
                 repair."
            }
            Self::Trouble => {
                "Entra or Graph gave no answer that says anything: try again later. The bridge's log \
                 says more."
            }
        }
    }

    /// Whether it will be the same next time, unless somebody repairs something.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::UnknownTenant
            | Self::UnknownApp
            | Self::ProofRefused
            | Self::ProofExpired
            | Self::ConsentMissing
            | Self::WrongCloud
            | Self::TokenRefused
            | Self::PermissionMissing => true,
            Self::Works | Self::Throttled | Self::NoProof | Self::Trouble => false,
        }
    }

    /// What it means that Entra refuses with this complaint ("Error codes" in the documentation of
    /// Microsoft Entra).
    pub(super) fn of_complaint(complaint: &Complaint) -> Self {
        let told = |numbers: &[u64]| complaint.numbers.iter().any(|it| numbers.contains(it));
        if told(&[90_002, 900_021, 900_023]) {
            Self::UnknownTenant
        } else if told(&[700_016]) {
            Self::UnknownApp
        } else if told(&[7_000_222]) {
            Self::ProofExpired
        } else if told(&[65_001, 65_004, 650_052]) {
            Self::ConsentMissing
        } else if told(&[900_432, 900_439, 90_051, 500_011]) {
            Self::WrongCloud
        } else {
            match complaint.error.as_deref() {
                Some("invalid_client" | "invalid_grant") => Self::ProofRefused,
                Some("unauthorized_client") => Self::UnknownApp,
                Some("consent_required" | "interaction_required") => Self::ConsentMissing,
                Some("invalid_resource") => Self::WrongCloud,
                _ => Self::Trouble,
            }
        }
    }

    /// What it means that Graph answers with this status. The operation that was asked for cannot exist,
    /// so that it is missed or its id is found fault with by who takes the token and grants access.
    pub(super) fn of_status(status: u16) -> Self {
        match status {
            200 | 400 | 404 | 410 => Self::Works,
            401 => Self::TokenRefused,
            403 => Self::PermissionMissing,
            429 => Self::Throttled,
            _ => Self::Trouble,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_entra_says_becomes_words_for_who_can_act() {
        for (error, numbers, finding) in [
            ("invalid_request", vec![90_002], Finding::UnknownTenant),
            ("unauthorized_client", vec![700_016], Finding::UnknownApp),
            ("invalid_client", vec![7_000_215], Finding::ProofRefused),
            ("invalid_client", vec![7_000_222], Finding::ProofExpired),
            ("invalid_client", vec![700_027], Finding::ProofRefused),
            ("invalid_grant", vec![65_001], Finding::ConsentMissing),
            ("consent_required", vec![], Finding::ConsentMissing),
            ("invalid_resource", vec![500_011], Finding::WrongCloud),
            ("temporarily_unavailable", vec![90_033], Finding::Trouble),
            ("invented_tomorrow", vec![], Finding::Trouble),
        ] {
            let complaint =
                Complaint { error: Some(error.to_owned()), numbers, ..Complaint::default() };
            assert_eq!(Finding::of_complaint(&complaint), finding, "{complaint:?}");
        }
        assert_eq!(Finding::of_complaint(&Complaint::default()), Finding::Trouble);
    }

    #[test]
    fn what_graph_says_tells_the_token_from_the_permission() {
        for (status, finding) in [
            (404, Finding::Works),
            (400, Finding::Works),
            (401, Finding::TokenRefused),
            (403, Finding::PermissionMissing),
            (429, Finding::Throttled),
            (503, Finding::Trouble),
            (302, Finding::Trouble),
        ] {
            assert_eq!(Finding::of_status(status), finding, "{status}");
        }
    }
}
