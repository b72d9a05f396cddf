//! A request that is ready for the intake, and which referral it names where it has two names for it.

use http::HeaderMap;
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::personal::Payload;
use waymark_core::port::{Channel, Inbound, InboundBody, IntakeAnswer, IntakeError};
use waymark_core::referral::SenderReference;

use super::Asked;
use crate::fhir::wire::MEDIA_TYPE;

/// A request that is ready for the intake, and what its answer needs of it.
#[derive(Debug)]
pub struct Ready {
    /// For the intake.
    pub inbound: Inbound,
    /// The id that an update or cancel has beside its sender's own reference: BaRS names a request by the id that our answer
    /// gave, but one that is not ours is no more than its sender's.
    pub by_id: Option<SenderReference>,
    /// For [`super::Server::answered`].
    pub ticket: Ticket,
}

/// What the answer to a request needs of it.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub(super) ids: HeaderMap,
    pub(super) kind: Asked,
}

impl Ready {
    /// What to ask the intake for first where the request has two names for its referral: by the id, and by the reference.
    pub fn enquiries(&self) -> Option<[Inbound; 2]> {
        let id = self.by_id.clone()?;
        let (InboundBody::Amend(own, _) | InboundBody::Cancel(own, ..)) = &self.inbound.body else {
            return None;
        };
        let enquiry = |reference| {
            let traceparent = self.inbound.traceparent.clone();
            enquiry(
                self.inbound.channel.clone(),
                &self.inbound.message_key,
                reference,
                traceparent,
            )
        };
        Some([enquiry(id), enquiry(own.clone())])
    }

    /// The request under the name that counts, once the intake answered both enquiries.
    ///
    /// # Errors
    /// The names are of two referrals, or the intake could not say.
    pub fn settled(
        mut self,
        by_id: Result<IntakeAnswer, IntakeError>,
        by_own: Result<IntakeAnswer, IntakeError>,
    ) -> Result<Inbound, IntakeError> {
        let unknown = |error: &IntakeError| error.kind == ErrorKind::NotFound;
        match (by_id, by_own) {
            (Err(error), _) if unknown(&error) => {}
            (Err(error), _) => return Err(error),
            (Ok(_), Err(error)) if !unknown(&error) => return Err(error),
            (Ok(one), Ok(other)) if one.referral != other.referral => {
                let why = "is of another referral than the id of the ServiceRequest: send the id that our answer gave, \
                           or the identifier that this request had";
                let error = IntakeError {
                    kind: ErrorKind::Conflict,
                    violations: vec![Violation::new("sender_reference", why)],
                    reason: "TWO_REFERRALS",
                };
                return Err(error);
            }
            (Ok(_), _) => {
                if let InboundBody::Amend(named, _) | InboundBody::Cancel(named, ..) =
                    &mut self.inbound.body
                    && let Some(id) = self.by_id
                {
                    *named = id;
                }
            }
        }
        Ok(self.inbound)
    }
}

/// An enquiry after a referral.
pub(super) fn enquiry(
    channel: Channel,
    key: &str,
    reference: SenderReference,
    traceparent: Option<String>,
) -> Inbound {
    Inbound {
        channel,
        claimed_sender: None,
        message_key: format!("enquiry|{key}"),
        original: Payload::new(Vec::new()),
        fingerprint: Payload::new(Vec::new()),
        media_type: MEDIA_TYPE.to_owned(),
        traceparent,
        environment: None,
        attachments: Vec::new(),
        conversation: None,
        body: InboundBody::Enquiry(reference),
    }
}
