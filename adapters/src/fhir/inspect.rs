//! For [`crate::inspect`].

use std::collections::BTreeMap;

use http::HeaderMap;
use serde_json::Value;
use waymark_core::directory::{CodeMap, Environment};
use waymark_core::id::Pathway;
use waymark_core::port::InboundBody;
use waymark_core::referral::LawfulBasis;

use super::header::Outgoing;
use super::send::{answer_of, headers_of};
use super::server::{Caller, Server, ServerOptions};
use super::{Assumptions, answer};
use crate::inspect::{now, statuses};

/// A server that every message of the samples is addressed to.
pub(crate) fn server(pathway: &Pathway) -> Server {
    Server::new(ServerOptions {
        environment: Environment::Test,
        targets: vec!["https://fhir.nhs.uk/Id/dos-service-id|2000011147".to_owned()],
        assumptions: Assumptions {
            pathway: pathway.clone(),
            pathways: BTreeMap::new(),
            lawful_basis: LawfulBasis::PublicTaskCare,
            consent_scope: Vec::new(),
        },
    })
}

const fn caller(codes: &CodeMap) -> Caller<'_> {
    Caller {
        codes,
        identity: "spiffe://area/agency/EE123456",
        agency: None,
        acts_for: None,
        traceparent: None,
    }
}

/// Reads a message with the headers that follow from it.
pub(crate) fn read(server: &Server, bytes: &[u8]) -> Option<InboundBody> {
    let headers = headers_of(bytes).ok()?;
    let codes = CodeMap::default();
    let ready = server.process(&headers, bytes, caller(&codes)).ok()?;
    Some(ready.inbound.body)
}

/// As a subscription's callback, and as answers.
pub(crate) fn answers(server: &Server, headers: &HeaderMap, bytes: &[u8]) {
    let codes = CodeMap::default();
    drop(server.callback(headers, bytes, caller(&codes)));
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let sent = Outgoing::of(&value, "WM00000000000000");
    for status in statuses() {
        drop(answer_of(status, bytes));
        drop(answer::of_transaction(
            status,
            headers,
            bytes.to_vec(),
            now(),
        ));
        if let Some(sent) = &sent {
            let echoed = sent.headers("1.4.0").unwrap_or_default();
            drop(answer::of_message(
                status,
                &echoed,
                bytes.to_vec(),
                sent,
                now(),
            ));
        }
    }
}
