//! What the server says of itself.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::super::name;
use super::{Answer, Server, answer, echoed};

impl Server {
    /// `GET /metadata`.
    pub fn metadata(&self, headers: &HeaderMap) -> Answer {
        let code = |code: &str| json!({ "code": code });
        let statement = json!({
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": "2026-11-25",
            "kind": "instance",
            "software": { "name": "Waymark", "version": env!("CARGO_PKG_VERSION") },
            "implementation": { "description": format!("Waymark ({}): referrals for children with special educational needs, by BaRS Core 1.4 patterns under a local use case", self.options.environment.as_str()) },
            "fhirVersion": "4.0.1",
            "format": ["application/fhir+json"],
            "rest": [{
                "mode": "server",
                "security": { "description": "Mutual TLS: the URI in the certificate's subjectAltName names the agency" },
                "resource": [
                    { "type": "ServiceRequest", "interaction": [code("read")] },
                    { "type": "MessageDefinition", "interaction": [code("search-type")] },
                    { "type": "Task", "interaction": [code("update")], "documentation": "What a rest-hook Subscription sends" },
                ],
                "operation": [{ "name": "process-message", "definition": "http://hl7.org/fhir/OperationDefinition/MessageHeader-process-message" }],
            }],
            "messaging": [{
                "supportedMessage": [
                    { "mode": "receiver", "definition": name::DEFINITION_REFERRAL },
                    { "mode": "receiver", "definition": name::DEFINITION_CANCELLED },
                    { "mode": "receiver", "definition": name::DEFINITION_RESPONSE },
                ],
            }],
        });
        answer(StatusCode::OK, &statement, &echoed(headers))
    }

    /// `GET /MessageDefinition`: what is taken.
    pub fn definitions(&self, headers: &HeaderMap) -> Answer {
        let taken = [
            (
                name::DEFINITION_REFERRAL,
                "servicerequest-request",
                "Referral",
            ),
            (
                name::DEFINITION_CANCELLED,
                "servicerequest-request",
                "ReferralCancelled",
            ),
            (
                name::DEFINITION_RESPONSE,
                "servicerequest-response",
                "ReferralResponse",
            ),
        ];
        let entries: Vec<Value> = taken
            .iter()
            .map(|(url, event, title)| {
                json!({ "resource": {
                    "resourceType": "MessageDefinition",
                    "url": url,
                    "name": title,
                    "status": "active",
                    "date": "2026-11-25",
                    "eventCoding": { "system": name::EVENTS, "code": event },
                    "useContext": [{
                        "code": { "system": "http://terminology.hl7.org/CodeSystem/usage-context-type", "code": "workflow" },
                        "valueCodeableConcept": { "coding": [{ "system": name::USE_CASE, "code": name::USE_CASE_CODE }], "text": "A local use case: no BaRS use case covers special educational needs" },
                    }],
                    "focus": [
                        { "code": "ServiceRequest", "min": 1, "max": "1" },
                        { "code": "Patient", "min": 1, "max": "1" },
                    ],
                } })
            })
            .collect();
        let bundle = json!({ "resourceType": "Bundle", "type": "searchset", "total": entries.len(), "entry": entries });
        answer(StatusCode::OK, &bundle, &echoed(headers))
    }
}
