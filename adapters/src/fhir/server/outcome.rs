//! `OperationOutcomes` in BaRS's shape: a code whose prefix says whose fault it is, the issue's type, the path and the
//! rule of the fault. No content of the request is repeated.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::super::name;
use super::super::wire::node::{Fault, Issue};
use super::{Answer, answer};

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    issues: Vec<(&'static str, Option<String>, String)>,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::of_fault(&fault)
    }
}

impl Refusal {
    pub(super) const fn new(status: StatusCode, code: &'static str) -> Self {
        Self {
            status,
            code,
            issues: Vec::new(),
        }
    }

    #[must_use]
    pub(super) fn with(mut self, issue: &'static str, path: Option<String>, rule: &str) -> Self {
        self.issues.push((issue, path, rule.to_owned()));
        self
    }

    /// A fault of the document.
    pub(crate) fn of_fault(fault: &Fault) -> Self {
        let refusal = match fault.issue {
            Issue::NotSupported => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "REC_UNPROCESSABLE_ENTITY")
            }
            Issue::Structure | Issue::Required | Issue::Value => {
                Self::new(StatusCode::BAD_REQUEST, "REC_BAD_REQUEST")
            }
        };
        refusal.with(fault.issue.code(), Some(fault.path.clone()), &fault.rule)
    }

    pub(super) fn of_header(header: &str, rule: &str, status: StatusCode, missing: bool) -> Self {
        let code = if status == StatusCode::NOT_ACCEPTABLE {
            "REC_NOT_ACCEPTABLE"
        } else {
            "REC_BAD_REQUEST"
        };
        let issue = match (status, missing) {
            (StatusCode::NOT_ACCEPTABLE, _) => "processing",
            (_, true) => "required",
            (_, false) => "value",
        };
        Self::new(status, code).with(issue, Some(format!("http.{header}")), rule)
    }

    /// It is for somebody else.
    pub(super) fn not_me(path: &str) -> Self {
        let path = if path.starts_with("Bundle") {
            path.to_owned()
        } else {
            format!("http.{path}")
        };
        Self::new(StatusCode::NOT_FOUND, "REC_NOT_FOUND").with(
            "not-found",
            Some(path),
            "is a service of this gateway",
        )
    }

    pub(super) fn forbidden(path: impl Into<String>, rule: impl AsRef<str>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "REC_FORBIDDEN").with(
            "forbidden",
            Some(path.into()),
            rule.as_ref(),
        )
    }

    /// The same pair of ids came before and was processed.
    pub(super) fn duplicate() -> Self {
        let rule =
            "This message has been recognised as having already been successfully processed.";
        Self::new(StatusCode::CONFLICT, "REC_CONFLICT").with("duplicate", None, rule)
    }

    /// No such path.
    pub fn no_path() -> Self {
        let rule = "There is nothing at this path: see GET /metadata.";
        Self::new(StatusCode::NOT_FOUND, "REC_NOT_FOUND").with("not-found", None, rule)
    }

    /// Not this method.
    pub fn no_method() -> Self {
        let rule = "This path takes another method: see GET /metadata.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "REC_METHOD_NOT_ALLOWED").with(
            "not-supported",
            None,
            rule,
        )
    }

    /// The body is longer than is read.
    pub fn too_long() -> Self {
        let rule = "The body is longer than is taken: send documents by reference.";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "REC_UNPROCESSABLE_ENTITY").with(
            "too-costly",
            None,
            rule,
        )
    }

    /// The certificate names nobody in the directory.
    pub fn nobody() -> Self {
        let rule = "The certificate of this connection is of no agency of this area.";
        Self::new(StatusCode::UNAUTHORIZED, "REC_UNAUTHORIZED").with("security", None, rule)
    }

    pub(super) fn answer(&self, ids: &HeaderMap) -> Answer {
        let issues: Vec<Value> = self
            .issues
            .iter()
            .map(|(issue, path, rule)| {
                let coding = json!({ "system": name::ERROR_CODES, "code": self.code });
                let mut entry = json!({
                    "severity": "error",
                    "code": issue,
                    "details": { "coding": [coding] },
                    "diagnostics": path.as_ref().map_or_else(|| rule.clone(), |path| format!("{path}: {rule}")),
                });
                if let (Some(path), Some(map)) = (path, entry.as_object_mut()) {
                    map.insert("expression".to_owned(), json!([path]));
                }
                entry
            })
            .collect();
        let outcome = json!({ "resourceType": "OperationOutcome", "issue": issues });
        answer(self.status, &outcome, ids)
    }
}
