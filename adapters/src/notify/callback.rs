//! The provider's delivery receipt: a bearer token that we gave it, and JSON of which four fields are read.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use waymark_core::directory::Endpoint;
use waymark_core::id::EndpointId;
use waymark_core::port::Inbound;
use zeroize::Zeroizing;

use super::config::Settings;
use super::wire::{Seen, inbound, news};
use crate::context::{EgressPolicy, Secrets};

/// The fewest characters of a token that proves anything.
const TOKEN_CHARS_MIN: usize = 16;

/// Why a receipt is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The endpoint takes none, or its token is not to be had.
    #[error(
        "the endpoint takes no receipts: it names no callback_tokens, or they do not resolve to 16 characters"
    )]
    NotTaken,
    /// It does not bear the endpoint's token.
    #[error("it does not bear the endpoint's token")]
    Token,
    /// It is not the JSON of a receipt.
    #[error("it is no receipt: id, reference and status are texts")]
    Shape,
}

/// Checks and reads a receipt. `None` for one that says nothing yet, or nothing of a message of ours.
///
/// # Errors
/// [`ReceiptError`] says why it is refused.
pub fn receipt(
    endpoint: &Endpoint,
    secrets: &dyn Secrets,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<Inbound>, ReceiptError> {
    let tokens = tokens(endpoint, secrets)?;
    let borne = headers
        .get(AUTHORIZATION)
        .map(http::HeaderValue::as_bytes)
        .and_then(|value| value.split_at_checked(b"Bearer ".len()))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
        .map(|(_, token)| token.trim_ascii());
    let good = borne.is_some_and(|token| tokens.iter().any(|known| same(known, token)));
    if !good {
        return Err(ReceiptError::Token);
    }
    let seen: Seen = serde_json::from_slice(body).map_err(|_| ReceiptError::Shape)?;
    Ok(read(&endpoint.id, &seen))
}

pub(super) fn read(endpoint: &EndpointId, seen: &Seen) -> Option<Inbound> {
    let wire_id = seen.wire_id()?;
    inbound(endpoint, &wire_id, (&seen.id, &seen.status), news(seen))
}

fn tokens(
    endpoint: &Endpoint,
    secrets: &dyn Secrets,
) -> Result<Vec<Zeroizing<Vec<u8>>>, ReceiptError> {
    // Whether the address may be reached does not matter to what comes in from it.
    let settings = Settings::read(endpoint, EgressPolicy::AsFlagged);
    let names = settings
        .map_err(|_| ReceiptError::NotTaken)?
        .callback_tokens;
    let tokens: Option<Vec<_>> = names
        .iter()
        .map(|name| {
            let token = name.resolve(secrets)?;
            (token.trim_ascii().len() >= TOKEN_CHARS_MIN).then_some(token)
        })
        .collect();
    tokens
        .filter(|tokens| !tokens.is_empty())
        .ok_or(ReceiptError::NotTaken)
}

/// Compares digests, so that the time taken tells neither the bytes nor their number.
fn same(known: &[u8], token: &[u8]) -> bool {
    let (known, token) = (digest(&SHA256, known.trim_ascii()), digest(&SHA256, token));
    verify_slices_are_equal(known.as_ref(), token.as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use waymark_core::delivery::{Evidence, ParkReason};
    use waymark_core::directory::AdapterKind;
    use waymark_core::port::{Channel, InboundBody};

    use super::*;
    use crate::contract;
    use crate::far_side::{self, Drawer};

    fn endpoint(more: &str) -> Endpoint {
        let settings = format!(
            "url = \"https://notify.example\"\nprivate_network = true\napi_key = \"secret:new\"\n{more}"
        );
        Endpoint {
            releases_at: Evidence::TransportAck,
            ..far_side::endpoint(AdapterKind::Notify, &settings)
        }
    }

    const TAKES: &str = "callback_tokens = [\"secret:new\", \"secret:old\"]";

    fn bearing(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(token).unwrap();
        headers.insert(AUTHORIZATION, value);
        headers
    }

    fn token(name: &str) -> String {
        let secret = Drawer.secret(name).unwrap().to_vec();
        format!("Bearer {}", String::from_utf8(secret).unwrap().trim())
    }

    fn body(status: &str) -> String {
        format!(
            "{{\"id\":\"740e5834-3a29-46b4-9a6f-16142fde533a\",\"reference\":\"{}\",\"to\":\"ife@family.example\",\
             \"status\":\"{status}\",\"created_at\":\"2026-03-02T10:00:00.000000Z\",\"completed_at\":null,\
             \"notification_type\":\"email\",\"template_id\":\"f33517ff-2a88-4f6e-b855-c550268ce08a\",\
             \"template_version\":1}}",
            contract::wire_id()
        )
    }

    fn taken(token: &str, body: &str) -> Result<Option<Inbound>, ReceiptError> {
        receipt(&endpoint(TAKES), &Drawer, &bearing(token), body.as_bytes())
    }

    #[test]
    fn a_receipt_is_evidence_or_the_lack_of_it_for_one_endpoints_delivery_and_names_nobody() {
        let arrived = taken(&token("old"), &body("delivered")).unwrap().unwrap();
        assert_eq!(
            arrived.channel,
            Channel::Endpoint("far-side".parse().unwrap())
        );
        let kept = String::from_utf8(arrived.original.expose().to_vec()).unwrap();
        assert!(!kept.contains("family.example"), "{kept}");
        let InboundBody::Status(status) = arrived.body else {
            panic!("no status")
        };
        assert_eq!(status.grade, Evidence::TransportAck);
        assert_eq!(
            status.answers,
            Some(contract::wire_id().as_str().to_owned())
        );
        let failed = taken(&token("new"), &body("permanent-failure")).unwrap();
        let InboundBody::Undelivered(failed) = failed.unwrap().body else {
            panic!("not undelivered")
        };
        assert_eq!(
            (failed.why.code.as_str(), failed.reason),
            ("notify.permanent_failure", ParkReason::Refused)
        );
        for quiet in [
            "created",
            "sending",
            "pending",
            "sent",
            "accepted",
            "of-tomorrow",
        ] {
            assert!(
                taken(&token("new"), &body(quiet)).unwrap().is_none(),
                "{quiet}"
            );
        }
    }

    #[test]
    fn a_text_message_to_another_country_is_sent_for_good_and_claims_no_more() {
        let abroad = body("sent").replace("\"email\"", "\"sms\"");
        let inbound = taken(&token("new"), &abroad).unwrap().unwrap();
        let InboundBody::Status(status) = inbound.body else {
            panic!("no status")
        };
        assert_eq!(status.grade, Evidence::Sent);
        for (way, status) in [("letter", "sent"), ("email", "sent"), ("sms", "sending")] {
            let quiet = body(status).replace("\"email\"", &format!("\"{way}\""));
            let said = taken(&token("new"), &quiet).unwrap();
            assert!(said.is_none(), "{way} {status}");
        }
    }

    #[test]
    fn only_the_bearer_of_the_endpoints_token_is_heard() {
        for wrong in ["", "Bearer ", "Bearer whsec_", "Basic d2F5bWFyaw=="] {
            assert!(
                matches!(taken(wrong, &body("delivered")), Err(ReceiptError::Token)),
                "{wrong}"
            );
        }
        let bare = receipt(&endpoint(TAKES), &Drawer, &HeaderMap::new(), b"{}");
        assert_eq!(bare.unwrap_err(), ReceiptError::Token);
        for none in ["", "callback_tokens = [\"secret:gone\"]"] {
            let refused = receipt(&endpoint(none), &Drawer, &bearing(&token("new")), b"{}");
            assert_eq!(refused.unwrap_err(), ReceiptError::NotTaken);
        }
        let shape = taken(&token("new"), "{\"to\":\"ife@family.example\"}").unwrap_err();
        assert_eq!(shape, ReceiptError::Shape);
        assert!(!shape.to_string().contains("family.example"));
        let others = body("delivered").replace(contract::wire_id().as_str(), "invoice 12");
        assert!(taken(&token("new"), &others).unwrap().is_none(), "not ours");
    }
}
