//! Why an order has failed, and what to do about it.

use super::cache::CacheError;
use super::certificate::CertificateError;
use super::challenge::ChallengeError;
use super::directory::RequestError;
use crate::config::AcmeChallenge;
use crate::off_thread::ReadError;
use instant_acme::{Error, Problem};

/// Why an order has not led to a certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("the cache folder cannot be used: {0}")]
    Disk(#[from] ReadError),
    #[error("{}", acme_text(.0))]
    Acme(#[from] Error),
    /// What the CA has found when it verified the name.
    #[error("the CA cannot verify the name by {}: {}", challenge_name(*.0), problem_text(.1))]
    Validation(AcmeChallenge, Problem),
    #[error("the CA does not offer the challenge {}", challenge_name(*.0))]
    NotOffered(AcmeChallenge),
    #[error("the CA has refused the order without a reason")]
    Refused,
    #[error("the order was not complete within {0} s")]
    Timeout(u64),
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    #[error("the CA has issued a certificate that cannot be used: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the credentials of the account cannot be read or written: {0}")]
    Credentials(#[from] serde_json::Error),
}

const ACME_ERROR: &str = "urn:ietf:params:acme:error:";

/// As RFC 8555 names it.
pub(super) fn challenge_name(challenge: AcmeChallenge) -> &'static str {
    match challenge {
        AcmeChallenge::Http => "http-01",
        AcmeChallenge::TlsAlpn | AcmeChallenge::Auto => "tls-alpn-01",
    }
}

/// On one line: the CA chooses it.
fn problem_text(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("no type");
    let kind = kind.strip_prefix(ACME_ERROR).unwrap_or(kind);
    let mut text = format!(
        "{} ({kind})",
        problem.detail.as_deref().unwrap_or("no detail")
    );
    for part in &problem.subproblems {
        text += &format!("; {part}");
    }
    text.replace(char::is_control, " ")
}

fn acme_text(error: &Error) -> String {
    match error {
        Error::Api(problem) => format!("the CA refuses: {}", problem_text(problem)),
        Error::Json(error) => format!("the CA sends what is not ACME: {error}"),
        Error::Timeout(_) => "the CA has not completed the order in time".to_owned(),
        error => error.to_string(),
    }
}

impl OrderError {
    /// The kind of a problem of the CA, without its namespace.
    pub(super) fn kind(&self) -> Option<&str> {
        let problem = match self {
            Self::Acme(Error::Api(problem)) | Self::Validation(_, problem) => problem,
            _ => return None,
        };
        problem.r#type.as_deref()?.strip_prefix(ACME_ERROR)
    }

    /// What the operator can do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match (self, self.kind()) {
            (Self::Cache(_) | Self::Disk(_) | Self::Credentials(_), _) => {
                "acme.cache must be a folder that sse-guard's user can write"
            }
            (Self::NotOffered(_), _) => "set acme.challenge to another challenge",
            (Self::Acme(Error::Other(error)), _) => match error.downcast_ref() {
                Some(RequestError::Tls(..)) => {
                    "is acme.directory the right server? acme.ca names a file with the CA of its certificate"
                }
                Some(_) => "this machine must reach the server of acme.directory on its port",
                None => RETRIED,
            },
            (_, Some("dns")) => {
                "its DNS must have A or AAAA records with the addresses of this proxy"
            }
            (
                Self::Validation(AcmeChallenge::Http, _),
                Some("connection" | "unauthorized" | "incorrectResponse"),
            ) => "port 80 of the name must lead to a listener of this proxy without TLS",
            (
                Self::Validation(..),
                Some("connection" | "unauthorized" | "incorrectResponse" | "tls"),
            ) => {
                "port 443 of the name must lead to this listener, without another server that terminates TLS before it"
            }
            (_, Some("caa")) => "the CAA records of the name must allow the CA",
            (_, Some("rateLimited")) => "wait; try changes with the staging directory of the CA",
            (_, Some("rejectedIdentifier")) => "the CA issues no certificate for this name",
            (_, Some("userActionRequired")) => {
                "agree to the new terms of the CA at the address that it names"
            }
            (_, Some("externalAccountRequired")) => {
                "the CA requires an account of its own, which is not supported: use another one"
            }
            (_, Some("invalidContact" | "unsupportedContact")) => "correct acme.contact",
            _ => RETRIED,
        }
    }
}

const RETRIED: &str = "if it persists, the status page of the CA may have the reason";

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str) -> Problem {
        Problem {
            r#type: Some(format!("{ACME_ERROR}{kind}")),
            detail: Some("no\nroute".to_owned()),
            status: Some(400),
            subproblems: Vec::new(),
        }
    }

    #[test]
    fn error_has_type_and_detail_of_the_problem_on_one_line_and_a_remedy() {
        let failed = OrderError::Validation(AcmeChallenge::Http, problem("connection"));
        let text = "the CA cannot verify the name by http-01: no route (connection)";
        assert_eq!(failed.to_string(), text);
        assert!(failed.remedy().starts_with("port 80 of the name"));
        let failed = OrderError::Validation(AcmeChallenge::TlsAlpn, problem("connection"));
        assert!(failed.remedy().starts_with("port 443 of the name"));
        let refused = OrderError::Acme(Error::Api(problem("rateLimited")));
        assert_eq!(
            refused.to_string(),
            "the CA refuses: no route (rateLimited)"
        );
        assert!(refused.remedy().starts_with("wait"));
    }

    #[test]
    fn failed_requests_have_a_remedy_of_their_own() {
        let error = |error: RequestError| OrderError::Acme(Error::Other(error.into()));
        let timeout = error(RequestError::Timeout("ca.test".to_owned()));
        assert_eq!(timeout.to_string(), "ca.test has not responded within 30s");
        assert!(
            timeout
                .remedy()
                .contains("must reach the server of acme.directory")
        );
        let tls = error(RequestError::Tls(
            "ca.test".to_owned(),
            crate::tls::TlsFailure::timeout(),
        ));
        assert!(tls.remedy().contains("acme.ca"));
    }
}
