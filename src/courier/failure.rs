//! What kept an attempt from being answered, or its answer from being read.

use super::egress::RefusalCode;

/// Each has a code of its own, for there is something else to be done about each.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Failure {
    /// Nothing was sent: the operator's rules do not allow it.
    Refused(RefusalCode),
    /// No address was found for the name.
    NameNotResolved,
    /// The operator's proxy was not reached, or did not connect us.
    ProxyFailed,
    /// Nobody listens there.
    ConnectRefused,
    /// No way leads there.
    ConnectUnreachable,
    /// No connection for any other reason.
    ConnectFailed,
    /// There is a connection, and no way to speak in private over it.
    Tls(TlsFault),
    /// A deadline passed meanwhile.
    TimedOut(Phase),
    /// The receiver broke the connection off, or this exchange on it (`RST`, `RST_STREAM`).
    ResetByReceiver,
    /// The receiver ended the connection before its answer was complete.
    ClosedEarly,
    /// What came is not HTTP.
    AnswerMalformed,
    /// The answer has more headers, or longer ones, than are read.
    AnswerTooLarge,
}

/// Why there is no secure connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TlsFault {
    CertificateExpired,
    CertificateNotYetValid,
    /// The certificate is for somebody else.
    WrongName,
    /// Nobody whom we trust vouches for the certificate. So it is with those that sign themselves.
    UnknownIssuer,
    /// The receiver speaks no version or no cipher that we speak.
    NoCommonVersion,
    Other,
}

/// How far an attempt had come.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Phase {
    /// Looking up the receiver's name.
    Resolving,
    /// Connecting to an address, or to the proxy and through it.
    Connecting,
    /// In the TLS handshake.
    Securing,
    /// The receiver does not take the whole request.
    Sending,
    /// The request is sent, and the headers of the answer are not complete.
    Waiting,
    /// The rest of the answer is not complete.
    Reading,
}

impl Failure {
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::NameNotResolved,
            Self::ProxyFailed,
            Self::ConnectRefused,
            Self::ConnectUnreachable,
            Self::ConnectFailed,
            Self::ResetByReceiver,
            Self::ClosedEarly,
            Self::AnswerMalformed,
            Self::AnswerTooLarge,
        ];
        let refused = RefusalCode::ALL.map(Self::Refused).into_iter();
        let timed_out = Phase::ALL.map(Self::TimedOut);
        refused.chain(others).chain(TlsFault::ALL.map(Self::Tls)).chain(timed_out)
    }

    /// The code in attempt records and logs; it stays the same.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused(code) => code.as_str(),
            Self::NameNotResolved => "nameNotResolved",
            Self::ProxyFailed => "proxyFailed",
            Self::ConnectRefused => "connectRefused",
            Self::ConnectUnreachable => "connectUnreachable",
            Self::ConnectFailed => "connectFailed",
            Self::Tls(TlsFault::CertificateExpired) => "tlsCertificateExpired",
            Self::Tls(TlsFault::CertificateNotYetValid) => "tlsCertificateNotYetValid",
            Self::Tls(TlsFault::WrongName) => "tlsWrongName",
            Self::Tls(TlsFault::UnknownIssuer) => "tlsUnknownIssuer",
            Self::Tls(TlsFault::NoCommonVersion) => "tlsNoCommonVersion",
            Self::Tls(TlsFault::Other) => "tlsFailed",
            Self::TimedOut(Phase::Resolving) => "timedOutResolving",
            Self::TimedOut(Phase::Connecting) => "timedOutConnecting",
            Self::TimedOut(Phase::Securing) => "timedOutSecuring",
            Self::TimedOut(Phase::Sending) => "timedOutSending",
            Self::TimedOut(Phase::Waiting) => "timedOutWaiting",
            Self::TimedOut(Phase::Reading) => "timedOutReading",
            Self::ResetByReceiver => "resetByReceiver",
            Self::ClosedEarly => "closedEarly",
            Self::AnswerMalformed => "answerMalformed",
            Self::AnswerTooLarge => "answerTooLarge",
        }
    }
}

impl TlsFault {
    const ALL: [Self; 6] = [
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::WrongName,
        Self::UnknownIssuer,
        Self::NoCommonVersion,
        Self::Other,
    ];
}

impl Phase {
    const ALL: [Self; 6] = [
        Self::Resolving,
        Self::Connecting,
        Self::Securing,
        Self::Sending,
        Self::Waiting,
        Self::Reading,
    ];

    /// For people, behind a colon.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Resolving => "looking up the name",
            Self::Connecting => "connecting",
            Self::Securing => "in the TLS handshake",
            Self::Sending => "sending the request",
            Self::Waiting => "waiting for the headers of the answer",
            Self::Reading => "reading the answer",
        }
    }
}
