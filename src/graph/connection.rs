//! Who asks Microsoft Entra for tokens, and how it proves that it is who it says.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::certificate::{ClientCertificate, InvalidCertificate};
use super::on_behalf_of::UserGrant;

/// A named Graph identity of a caller: an app registration or a managed identity.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The caller's name for it.
    pub name: String,
    /// The directory: a GUID or a domain name, lower case.
    pub tenant: String,
    /// The app registration, or the managed identity: a GUID, lower case.
    pub client_id: String,
    pub proof: Proof,
}

/// By what Entra believes that it is the app that asks.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A client secret, which travels with each request.
    Secret(SecretString),
    /// A certificate whose key signs each request, and never travels.
    Certificate(ClientCertificate),
    /// A token of another issuer that Entra was told to trust, as Kubernetes hands to a workload: in
    /// a file, which is read anew each time since it rotates.
    FederatedToken { file: PathBuf },
    /// The identity of the machine on which the bridge runs, as Azure gives one.
    ManagedIdentity(ManagedIdentity),
    /// None any more: the connection is another caller's, and was shared until the operator took it back.
    Withdrawn,
    /// A user has signed in to this API, whose own app registration asks in the user's name.
    OnBehalfOf(UserGrant),
}

/// Which of a machine's identities.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ManagedIdentity {
    /// The one that is the machine's own.
    SystemAssigned,
    /// The one that the connection's client id names, of those that were assigned to the machine.
    UserAssigned,
}

/// What kind of proof it is, without the proof.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProofKind {
    ClientSecret,
    Certificate,
    FederatedToken,
    SystemAssignedIdentity,
    UserAssignedIdentity,
    /// Another caller's, of whatever kind that is.
    Shared,
    /// Another caller's, which is shared no more.
    Withdrawn,
    OnBehalfOf,
}

/// Why what was kept of a proof is none.
#[derive(Debug, thiserror::Error)]
pub enum InvalidProof {
    #[error("a proof of this kind has a secret, and none is there")]
    NoSecret,
    #[error("a user has signed in at some time, and none is named")]
    NoSignIn,
    #[error("a federated token is in a file, and none is named")]
    NoFile,
    #[error(transparent)]
    Certificate(#[from] InvalidCertificate),
}

impl Proof {
    pub fn kind(&self) -> ProofKind {
        match self {
            Self::Secret(_) => ProofKind::ClientSecret,
            Self::Certificate(_) => ProofKind::Certificate,
            Self::FederatedToken { .. } => ProofKind::FederatedToken,
            Self::ManagedIdentity(ManagedIdentity::SystemAssigned) => {
                ProofKind::SystemAssignedIdentity
            }
            Self::ManagedIdentity(ManagedIdentity::UserAssigned) => ProofKind::UserAssignedIdentity,
            Self::Withdrawn => ProofKind::Withdrawn,
            Self::OnBehalfOf(_) => ProofKind::OnBehalfOf,
        }
    }

    /// What must be kept sealed: the client secret, a certificate with its key in PEM form, or a user's
    /// refresh token.
    pub fn secret(&self) -> Option<&SecretString> {
        match self {
            Self::Secret(secret) => Some(secret),
            Self::Certificate(certificate) => Some(certificate.pem()),
            Self::OnBehalfOf(grant) => Some(&grant.refresh_token),
            Self::FederatedToken { .. } | Self::ManagedIdentity(_) | Self::Withdrawn => None,
        }
    }

    /// Where the token of another issuer is.
    pub fn token_file(&self) -> Option<&Path> {
        match self {
            Self::FederatedToken { file } => Some(file),
            Self::Secret(_)
            | Self::Certificate(_)
            | Self::ManagedIdentity(_)
            | Self::OnBehalfOf(_)
            | Self::Withdrawn => None,
        }
    }

    pub fn certificate(&self) -> Option<&ClientCertificate> {
        match self {
            Self::Certificate(certificate) => Some(certificate),
            Self::Secret(_)
            | Self::FederatedToken { .. }
            | Self::ManagedIdentity(_)
            | Self::OnBehalfOf(_)
            | Self::Withdrawn => None,
        }
    }

    /// Whom it asks for, where that is a user.
    pub fn user_grant(&self) -> Option<&UserGrant> {
        match self {
            Self::OnBehalfOf(grant) => Some(grant),
            Self::Secret(_)
            | Self::Certificate(_)
            | Self::FederatedToken { .. }
            | Self::ManagedIdentity(_)
            | Self::Withdrawn => None,
        }
    }

    /// The proof of which `kind`, [`Self::secret`] and [`Self::token_file`] were kept.
    pub fn from_parts(
        kind: ProofKind,
        secret: Option<SecretString>,
        token_file: Option<&str>,
        signed_in_at: Option<Timestamp>,
    ) -> Result<Self, InvalidProof> {
        let secret = || secret.ok_or(InvalidProof::NoSecret);
        Ok(match kind {
            ProofKind::ClientSecret => Self::Secret(secret()?),
            ProofKind::Certificate => Self::Certificate(ClientCertificate::kept(secret()?)?),
            ProofKind::FederatedToken => {
                Self::FederatedToken { file: token_file.ok_or(InvalidProof::NoFile)?.into() }
            }
            ProofKind::SystemAssignedIdentity => {
                Self::ManagedIdentity(ManagedIdentity::SystemAssigned)
            }
            ProofKind::UserAssignedIdentity => Self::ManagedIdentity(ManagedIdentity::UserAssigned),
            // Whose it is has no such connection any more, or shares it no more.
            ProofKind::Shared | ProofKind::Withdrawn => Self::Withdrawn,
            ProofKind::OnBehalfOf => Self::OnBehalfOf(UserGrant {
                signed_in_at: signed_in_at.ok_or(InvalidProof::NoSignIn)?,
                refresh_token: secret()?,
            }),
        })
    }

    /// Tells this proof from all others, without telling what it is.
    pub(super) fn digest(&self) -> [u8; 32] {
        let digest = Sha256::new_with_prefix(self.kind().as_str()).chain_update([0]);
        if let Self::OnBehalfOf(grant) = self {
            // A refresh token is another one after each use, and stands for the same sign-in.
            let signed_in_at = grant.signed_in_at.as_millisecond().to_be_bytes();
            return digest.chain_update(signed_in_at).finalize().into();
        }
        let secret = self.secret().map(|secret| secret.expose_secret().as_bytes());
        let file = self.token_file().map(|file| file.as_os_str().as_encoded_bytes());
        digest.chain_update(secret.or(file).unwrap_or_default()).finalize().into()
    }
}

impl ProofKind {
    pub const ALL: [Self; 8] = [
        Self::ClientSecret,
        Self::Certificate,
        Self::FederatedToken,
        Self::SystemAssignedIdentity,
        Self::UserAssignedIdentity,
        Self::OnBehalfOf,
        Self::Shared,
        Self::Withdrawn,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientSecret => "clientSecret",
            Self::Certificate => "certificate",
            Self::FederatedToken => "federatedToken",
            Self::SystemAssignedIdentity => "systemAssignedIdentity",
            Self::UserAssignedIdentity => "userAssignedIdentity",
            Self::Shared => "shared",
            Self::Withdrawn => "withdrawn",
            Self::OnBehalfOf => "onBehalfOf",
        }
    }

    /// The kind that [`Self::as_str`] spells as `word`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Whether the connection is another caller's, so that its proof is not to be seen or changed here.
    pub fn is_anothers(self) -> bool {
        matches!(self, Self::Shared | Self::Withdrawn)
    }

    /// Whether it proves who the *bridge's* machine is, so that a caller that could choose it would
    /// act as its operator.
    pub fn is_of_the_machine(self) -> bool {
        match self {
            Self::ClientSecret
            | Self::Certificate
            | Self::OnBehalfOf
            | Self::Shared
            | Self::Withdrawn => false,
            Self::FederatedToken | Self::SystemAssignedIdentity | Self::UserAssignedIdentity => {
                true
            }
        }
    }
}
