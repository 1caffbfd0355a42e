//! In what way TLS was not agreed on.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error};

/// In what way TLS was not agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsFault {
    /// The certificate is of the past.
    Expired,
    /// The certificate is of the future.
    NotYetValid,
    /// Nobody who is believed has signed the certificate.
    UnknownIssuer,
    /// The certificate is for another name or address than the node was asked under.
    WrongName,
    /// The certificate is no good in another way.
    Certificate,
    /// The node refused, with this alert (RFC 8446, section 6).
    Refused(u8),
    /// The node speaks no version or cipher that is safe.
    Incompatible,
    /// What the node said is not TLS.
    NotTls,
    /// The node broke the protocol.
    Broken,
}

impl From<&Error> for TlsFault {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(fault) => match fault {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                // Signed with another key than that of the authority with that name: by somebody else.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::WrongName
                }
                _ => Self::Certificate,
            },
            Error::NoCertificatesPresented => Self::Certificate,
            Error::AlertReceived(alert) => Self::Refused(u8::from(*alert)),
            Error::PeerIncompatible(_) => Self::Incompatible,
            Error::InvalidMessage(_) => Self::NotTls,
            _ => Self::Broken,
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the certificate has expired",
            Self::NotYetValid => "the certificate is not valid yet",
            Self::UnknownIssuer => "the certificate has an unknown issuer",
            Self::WrongName => "the certificate is for another name",
            Self::Certificate => "the certificate is not valid",
            Self::Refused(alert) => {
                // The names of alerts are a closed list: nothing that the node chose.
                return write!(
                    f,
                    "the node refused with alert {alert} ({:?})",
                    AlertDescription::from(*alert)
                );
            }
            Self::Incompatible => "the node speaks no version that is safe",
            Self::NotTls => "the node does not speak TLS",
            Self::Broken => "the node broke the protocol",
        })
    }
}
