//! What went wrong, found in the chain of causes by type and never by text.

use std::error::Error;
use std::io::{self, ErrorKind};

use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::super::egress::NotDialled;
use super::super::exit::{NotConnected, ProxyFailed};
use super::super::failure::{Failure, Phase, TlsFault};
use super::Unanswered;
use crate::names::LookupError;

/// Characters of a failure's detail at the most.
pub(super) const LONGEST_DETAIL: usize = 300;

type Cause<'a> = &'a (dyn Error + 'static);

/// Why an exchange failed.
pub(in crate::courier) fn classify(error: Cause<'_>) -> Unanswered {
    let causes: Vec<_> = causes(error).collect();
    let not_connected = causes.iter().find_map(|cause| cause.downcast_ref::<NotConnected>());
    // Those within know more than those around them.
    let mut inwards = causes.iter().rev();
    let failure = match not_connected {
        Some(it) if it.is_timeout() => Failure::TimedOut(it.phase),
        Some(it) => inwards
            .find_map(|cause| failure_to_connect(*cause, it.phase))
            .unwrap_or(unexplained(it.phase)),
        None => inwards.find_map(|cause| failure(*cause)).unwrap_or(Failure::ClosedEarly),
    };
    let told = causes.iter().find_map(|cause| cause.downcast_ref::<TlsError>()).map(in_words);
    let last = || causes.last().map(ToString::to_string).unwrap_or_default();
    let detail = told.unwrap_or_else(last);
    Unanswered { failure, detail: detail.chars().take(LONGEST_DETAIL).collect() }
}

/// Whether the receiver broke off this exchange alone, over HTTP/2, and so is alive.
pub(super) fn is_reset_of_stream(error: Cause<'_>) -> bool {
    causes(error).any(|cause| cause.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset))
}

fn causes(error: Cause<'_>) -> impl Iterator<Item = Cause<'_>> {
    std::iter::successors(Some(error), |error| cause_of(*error))
}

/// What an `io::Error` holds is passed over by its `source`, and rustls hides in there.
fn cause_of(error: Cause<'_>) -> Option<Cause<'_>> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(held) => Some(held),
        None => error.source(),
    }
}

/// What a failure that nobody explains is in this phase.
fn unexplained(phase: Phase) -> Failure {
    match phase {
        Phase::Resolving => Failure::NameNotResolved,
        Phase::Connecting => Failure::ConnectFailed,
        // The receiver hung up in the middle of it, for the most part.
        Phase::Securing => Failure::Tls(TlsFault::Other),
        Phase::Sending | Phase::Waiting | Phase::Reading => Failure::ClosedEarly,
    }
}

fn failure_to_connect(cause: Cause<'_>, phase: Phase) -> Option<Failure> {
    if let Some(not_dialled) = cause.downcast_ref::<NotDialled>() {
        return Some(match not_dialled {
            NotDialled::Refused(refusal) => Failure::Refused(refusal.code()),
            NotDialled::NotResolved(LookupError::TimedOut) => Failure::TimedOut(Phase::Resolving),
            NotDialled::NotResolved(LookupError::NotFound | LookupError::Unavailable(_)) => {
                Failure::NameNotResolved
            }
        });
    }
    if cause.is::<ProxyFailed>() {
        return Some(Failure::ProxyFailed);
    }
    if let Some(error) = cause.downcast_ref::<TlsError>() {
        return Some(Failure::Tls(fault(error)));
    }
    let kind = cause.downcast_ref::<io::Error>()?.kind();
    if kind == ErrorKind::TimedOut {
        return Some(Failure::TimedOut(phase));
    }
    if phase != Phase::Connecting {
        return None;
    }
    if kind == ErrorKind::ConnectionRefused {
        return Some(Failure::ConnectRefused);
    }
    let unreachable = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
    unreachable.contains(&kind).then_some(Failure::ConnectUnreachable)
}

/// What went wrong over a connection that was there.
fn failure(cause: Cause<'_>) -> Option<Failure> {
    if let Some(error) = cause.downcast_ref::<TlsError>() {
        return Some(Failure::Tls(fault(error)));
    }
    if let Some(error) = cause.downcast_ref::<h2::Error>() {
        // What is neither received nor detected is what the connection under it says.
        return match (error.is_library(), error.is_remote(), error.is_go_away()) {
            (true, _, _) => Some(Failure::AnswerMalformed),
            (_, true, true) => Some(Failure::ClosedEarly),
            (_, true, false) => Some(Failure::ResetByReceiver),
            _ => error.get_io().and_then(|error| of_connection(error.kind())),
        };
    }
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        return if error.is_parse_too_large() {
            Some(Failure::AnswerTooLarge)
        } else if error.is_parse() || error.is_parse_status() {
            Some(Failure::AnswerMalformed)
        } else if error.is_timeout() {
            // A ping of HTTP/2 came back as little as the answer.
            Some(Failure::TimedOut(Phase::Waiting))
        } else {
            error.is_incomplete_message().then_some(Failure::ClosedEarly)
        };
    }
    of_connection(cause.downcast_ref::<io::Error>()?.kind())
}

fn of_connection(kind: ErrorKind) -> Option<Failure> {
    // The end of a connection, seen by who reads or by who writes.
    let ends = [ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe, ErrorKind::NotConnected];
    // So hyper says that a body is not as its headers announce it.
    let odd = [ErrorKind::InvalidInput, ErrorKind::InvalidData];
    if ends.contains(&kind) {
        Some(Failure::ClosedEarly)
    } else if [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted].contains(&kind) {
        Some(Failure::ResetByReceiver)
    } else if odd.contains(&kind) {
        Some(Failure::AnswerMalformed)
    } else if kind == ErrorKind::FileTooLarge {
        Some(Failure::AnswerTooLarge)
    } else {
        (kind == ErrorKind::TimedOut).then_some(Failure::TimedOut(Phase::Sending))
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls knows dozens of others, and more with each version"
)]
fn fault(error: &TlsError) -> TlsFault {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext,
        NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    let no_common = [
        AlertDescription::ProtocolVersion,
        AlertDescription::HandshakeFailure,
        AlertDescription::InsufficientSecurity,
    ];
    match error {
        TlsError::PeerIncompatible(_) => TlsFault::NoCommonVersion,
        TlsError::AlertReceived(alert) if no_common.contains(alert) => TlsFault::NoCommonVersion,
        TlsError::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            TlsFault::CertificateExpired
        }
        TlsError::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            TlsFault::CertificateNotYetValid
        }
        TlsError::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            TlsFault::WrongName
        }
        // Of somebody who calls himself by the name of one who is trusted.
        TlsError::InvalidCertificate(UnknownIssuer | BadSignature) => TlsFault::UnknownIssuer,
        _ => TlsFault::Other,
    }
}

/// Why there is no secure connection, for people.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls knows dozens of others, and more with each version"
)]
fn in_words(error: &TlsError) -> String {
    let said = match fault(error) {
        TlsFault::CertificateExpired => "the receiver's certificate has expired",
        TlsFault::CertificateNotYetValid => "the receiver's certificate is not valid yet",
        TlsFault::WrongName => "the receiver's certificate is for another name",
        TlsFault::UnknownIssuer => {
            "nobody who is trusted vouches for the receiver's certificate, or one between is missing"
        }
        TlsFault::NoCommonVersion => "the receiver speaks no TLS that is spoken here (1.2 or 1.3)",
        TlsFault::Other => match error {
            TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
                "the receiver asks for a certificate of ours, and there is none"
            }
            TlsError::AlertReceived(AlertDescription::UnrecognisedName) => {
                "the receiver does not know the name that it was called by"
            }
            TlsError::InvalidMessage(_) => "what came is not TLS",
            _ => "no secure connection",
        },
    };
    format!("{said}: {error}")
}
