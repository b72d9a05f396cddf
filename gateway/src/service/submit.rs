//! Submit: validate, route, and accept in one durable step.

use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::audit::{CommitmentTag, EntryDraft, EntryKind};
use waymark_core::delivery::Kind;
use waymark_core::directory::Directory;
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::id::{BodyId, DeliveryId, DocumentId, LegId, Reference, ReferralId, WireId};
use waymark_core::leg::{Duty, LegState, Owner, Side};
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    Accept, Accepted, Conversation, Likeness, MessageKey, NewBody, NewDelivery, NewLeg, Opening,
    SubjectKey,
};
use waymark_core::referral::{NhsVerification, Priority, Referral, limits};
use waymark_core::routing::{Decision, Destination, Facts, Unroutable, decide};
use waymark_core::time::Timestamp;

use super::draft::{CANONICAL, NOTE};
use super::{InForce, Service, ServiceError, family};

/// Characters in a request id.
pub(super) const REQUEST_ID_MAX: usize = 64;

/// A referral to submit.
#[derive(Clone, Debug)]
pub struct Submit {
    /// The sender's message key.
    pub request_id: String,
    /// The referral.
    pub referral: Referral,
    /// W3C trace context of the caller.
    pub traceparent: Option<String>,
}

/// What a face knows beyond the referral itself.
pub(super) struct Envelope {
    /// The message key's text, its kind first.
    pub(super) key: String,
    /// What is digested for the message key.
    pub(super) content: Payload,
    /// What is digested for the sender's reference.
    pub(super) fingerprint: Payload,
    /// The message as it came, where it is not the canonical content.
    pub(super) original: Option<(String, Payload)>,
    /// The ids that answers to it repeat.
    pub(super) conversation: Option<Conversation>,
    /// W3C trace context.
    pub(super) traceparent: Option<String>,
}

/// Checks a message key.
pub(super) fn check_request_id(id: &str) -> Result<(), ServiceError> {
    let ok = !id.is_empty()
        && id.len() <= REQUEST_ID_MAX
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
    if ok {
        return Ok(());
    }
    Err(ServiceError::field(
        "request_id",
        format!(
            "is 1 to {REQUEST_ID_MAX} letters, digits or any of . _ : - and new for each message"
        ),
    ))
}

/// The message key that a `request_id` stands for.
pub(super) fn request_key(id: &str) -> String {
    format!("grpc:{id}")
}

/// The canonical bytes of a referral, within the limit.
pub(super) fn canonical(referral: &Referral) -> Result<Vec<u8>, ServiceError> {
    let bytes = referral.to_canonical().map_err(|e| ServiceError {
        cause: Some(Box::new(e)),
        ..ServiceError::new(ErrorKind::Internal, "ENCODE")
    })?;
    if bytes.len() > limits::BODY_BYTES_MAX {
        return Err(ServiceError::field(
            "referral",
            format!(
                "is over {} bytes: move long texts into documents",
                limits::BODY_BYTES_MAX
            ),
        ));
    }
    Ok(bytes)
}

/// What a child is matched by: a verified NHS number, else a lasting UPN with the date of birth, else nothing.
pub(super) fn subject_of(referral: &Referral) -> SubjectKey {
    let child = &referral.child;
    match (&child.nhs_number, &child.upn) {
        (Some(nhs), _) if child.nhs_verification == NhsVerification::Verified => {
            SubjectKey::NhsNumber(Personal::new(nhs.expose().to_owned()))
        }
        (_, Some(upn)) if !upn.is_temporary() => SubjectKey::UpnAndBirth(Personal::new(format!(
            "{}|{}",
            upn.expose(),
            child.date_of_birth.expose()
        ))),
        _ => SubjectKey::New,
    }
}

/// What a child's record is compared by, where something identifies the child: two that are alike may be one child
/// recorded twice, or one record may hold another child's number. A person looks; nothing is merged.
fn likeness_of(referral: &Referral, id: ReferralId, directory: &Directory) -> Option<Likeness> {
    let triage = directory.triage()?;
    if subject_of(referral) == SubjectKey::New {
        return None;
    }
    let child = &referral.child;
    let born = child.date_of_birth.expose();
    let upn = child.upn.as_ref().filter(|upn| !upn.is_temporary());
    let plain = |name: &Personal<String>| name.expose().trim().to_lowercase();
    Some(Likeness {
        upn_and_birth: upn.map(|upn| Personal::new(format!("{}|{born}", upn.expose()))),
        name_and_birth: Personal::new(format!("{}|{}|{born}", plain(&child.name.family), plain(&child.name.given))),
        alarm: NewAlarm {
            kind: AlarmKind::IdentityConflict,
            subject: id.to_string(),
            owner: triage.agency.clone(),
            role: triage.owner_role.clone(),
            text: "the child of this referral and that of an earlier one have name or UPN and birthday in common, and \
                   different identifiers: compare the two with their senders"
                .to_owned(),
        },
    })
}

/// Whether a referral's content is what it must be; the faults are named beneath `referral`.
pub(super) fn check_content(
    referral: &Referral,
    today: jiff::civil::Date,
) -> Result<(), ServiceError> {
    let below = |v: Violation| Violation::new(format!("referral.{}", v.field), v.why);
    let violations: Vec<Violation> = referral.violations(today).into_iter().map(below).collect();
    if violations.is_empty() {
        return Ok(());
    }
    Err(ServiceError::invalid(violations))
}

impl Service {
    /// Accepts a referral from an agency's own system.
    ///
    /// # Errors
    /// `Invalid` names every wrong field; `Conflict` a key used for something else.
    pub async fn submit(&self, caller: &Principal, ask: Submit) -> Result<Accepted, ServiceError> {
        let accept = self.draft_submit(caller, ask)?;
        Ok(self.parts.store.accept(accept).await?)
    }

    /// Decides a submit without keeping anything: permit, validation, routing, and what would be kept.
    ///
    /// # Errors
    /// As [`Service::submit`].
    pub fn draft_submit(&self, caller: &Principal, ask: Submit) -> Result<Accept, ServiceError> {
        check_request_id(&ask.request_id)?;
        let content = canonical(&ask.referral)?;
        let envelope = Envelope {
            key: request_key(&ask.request_id),
            content: Payload::new(content.clone()),
            fingerprint: Payload::new(content.clone()),
            original: None,
            conversation: None,
            traceparent: ask.traceparent,
        };
        self.draft(caller, &ask.referral, content, envelope)
    }

    /// Accepts a parsed referral, whichever face it came by.
    pub(super) async fn accept(
        &self,
        caller: &Principal,
        referral: Referral,
        content: Vec<u8>,
        envelope: Envelope,
    ) -> Result<Accepted, ServiceError> {
        let accept = self.draft(caller, &referral, content, envelope)?;
        Ok(self.parts.store.accept(accept).await?)
    }

    fn draft(
        &self,
        caller: &Principal,
        referral: &Referral,
        content: Vec<u8>,
        envelope: Envelope,
    ) -> Result<Accept, ServiceError> {
        permit(caller, Action::Submit, Relationship::Sender)?;
        let now = self.now();
        let today = now.london_date();
        check_content(referral, today)?;
        let in_force = self.in_force();
        let facts = Facts::of(referral, &caller.agency, today);
        let decision =
            decide(&in_force.directory, &facts, today).map_err(|why| unroutable(&why))?;
        self.draft_accept(
            caller, referral, content, envelope, &decision, &in_force, now,
        )
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is a different part of one accept, and it is called once"
    )]
    fn draft_accept(
        &self,
        caller: &Principal,
        referral: &Referral,
        content: Vec<u8>,
        envelope: Envelope,
        decision: &Decision,
        in_force: &InForce,
        now: Timestamp,
    ) -> Result<Accept, ServiceError> {
        let draft = self.drafter();
        let id = draft.referral(now);
        let stream = draft.stream(now);
        let (entry, openings) =
            self.accept_entry(caller, &content, decision, in_force, stream, now);
        let body = draft.body(now, CANONICAL, content);
        let original = envelope.original.map(|(media_type, bytes)| NewBody {
            id: draft.body_id(now),
            media_type,
            bytes,
        });
        let conversation = envelope.conversation.map(|ids| {
            let bytes = serde_json::to_vec(&ids).unwrap_or_default();
            draft.body(now, NOTE, bytes)
        });
        let urgent = referral.is_safeguarding() || referral.priority >= Priority::Urgent;
        let mut legs = Vec::new();
        let mut deliveries = Vec::new();
        let mut alarms = Vec::new();
        let mut notes = Vec::new();
        for destination in &decision.destinations {
            let leg = self.leg_for(
                destination,
                decision,
                draft.leg(now),
                &caller.agency,
                now,
                now,
            )?;
            if leg.triage.is_some() {
                alarms.push(unrouted(&leg));
            }
            let delivery = first_delivery(
                &in_force.directory,
                destination,
                leg.id,
                draft.delivery(now),
                (body.id, 1),
                now,
                urgent,
            )?;
            deliveries.push(delivery);
            let told = family::Telling {
                leg: leg.id,
                service: &leg.service,
                pathway: &referral.pathway,
                state: LegState::Submitted,
                next_action: Some(&leg.next_action),
                version: 1,
                urgent,
            };
            if let Some((note, family)) = self.tell_family(&told, now) {
                notes.push(note);
                deliveries.push(family);
            }
            legs.push(leg);
        }
        Ok(Accept {
            at: now,
            event: entry.event,
            referral: id,
            reference: Reference::of(id),
            stream,
            sender: caller.agency.clone(),
            message_key: MessageKey {
                sender: caller.agency.clone(),
                key: Personal::new(envelope.key),
                content: envelope.content,
            },
            sender_reference: referral
                .sender_reference
                .clone()
                .map(|r| (r, envelope.fingerprint)),
            subject: subject_of(referral),
            likeness: likeness_of(referral, id, &in_force.directory),
            body,
            original,
            conversation,
            notes,
            pathway: referral.pathway.clone(),
            priority: referral.priority,
            safeguarding: referral.is_safeguarding(),
            release: in_force.number,
            legs,
            deliveries,
            documents: documents_of(referral),
            alarms,
            entry,
            openings,
            traceparent: envelope.traceparent,
        })
    }

    /// One ACCEPTED entry carries the routing decision (ruling 15).
    fn accept_entry(
        &self,
        caller: &Principal,
        content: &[u8],
        decision: &Decision,
        in_force: &InForce,
        stream: waymark_core::id::StreamId,
        now: Timestamp,
    ) -> (EntryDraft, Vec<Opening>) {
        let draft = self.drafter();
        let services: Vec<&str> = decision
            .destinations
            .iter()
            .map(|d| d.service.as_str())
            .collect();
        let mut entry = draft
            .entry(EntryKind::Accepted, stream, caller, now)
            .code("release", in_force.number.to_string())
            .code(
                "rule",
                decision.rule.as_ref().map_or("none", |r| r.as_str()),
            )
            .code("services", services.join(","));
        if let Some(triage) = &decision.triage {
            entry = entry.code("triage", triage.as_str());
        }
        let opening = draft.commit(&mut entry, CommitmentTag::Payload, content);
        (entry, vec![opening])
    }

    /// A leg for a destination, with its owner, clock and next-action day.
    pub(super) fn leg_for(
        &self,
        destination: &Destination,
        decision: &Decision,
        id: LegId,
        sender: &waymark_core::id::AgencyId,
        clock_started: Timestamp,
        now: Timestamp,
    ) -> Result<NewLeg, ServiceError> {
        let (owner, clock, next_action) =
            self.duty_of(LegState::Submitted, &destination.owner, sender, now)?;
        let triage = match (&destination.rule, &decision.triage) {
            (None, Some(reason)) => Some(reason.as_str().to_owned()),
            _ => None,
        };
        Ok(NewLeg {
            id,
            service: destination.service.clone(),
            agency: destination.agency.clone(),
            rule: destination.rule.clone(),
            triage,
            owner,
            clock: clock.unwrap_or_default(),
            clock_started,
            next_action: next_action.unwrap_or_default(),
        })
    }

    /// Who must act on a leg in a state, which clock runs, and by which day.
    pub(super) fn duty_of(
        &self,
        state: LegState,
        receiver: &Owner,
        sender: &waymark_core::id::AgencyId,
        now: Timestamp,
    ) -> Result<(Owner, Option<String>, Option<String>), ServiceError> {
        let Some(Duty {
            side,
            rule,
            working_days,
        }) = state.duty()
        else {
            return Ok((receiver.clone(), None, None));
        };
        let day = self
            .parts
            .calendar
            .working_days_after(now.london_date(), working_days)?;
        let owner = match side {
            Side::Receiver => receiver.clone(),
            Side::Sender => Owner {
                agency: sender.clone(),
                role: "referrer".to_owned(),
            },
        };
        Ok((owner, Some(rule.to_owned()), Some(day.to_string())))
    }
}

/// The documents that a referral takes along, with their digests.
pub(super) fn documents_of(referral: &Referral) -> Vec<(DocumentId, String)> {
    let documents = referral.documents.iter();
    documents.map(|d| (d.id, d.sha256.clone())).collect()
}

/// The alarm of a leg that no rule chose.
pub(super) fn unrouted(leg: &NewLeg) -> NewAlarm {
    NewAlarm {
        kind: AlarmKind::Unrouted,
        subject: leg.id.to_string(),
        owner: leg.owner.agency.clone(),
        role: leg.owner.role.clone(),
        text: format!(
            "a referral needs a person to choose its service ({}): redirect it",
            leg.triage.as_deref().unwrap_or("no rule matched")
        ),
    }
}

/// The delivery of a message to a destination's endpoint, bound now (invariant 7).
pub(super) fn first_delivery(
    directory: &Directory,
    destination: &Destination,
    leg: LegId,
    id: DeliveryId,
    (content, version): (BodyId, u64),
    now: Timestamp,
    urgent: bool,
) -> Result<NewDelivery, ServiceError> {
    let endpoint = directory
        .endpoints
        .get(&destination.endpoint)
        .ok_or_else(|| ServiceError::new(ErrorKind::Internal, "ENDPOINT_GONE"))?;
    Ok(NewDelivery {
        id,
        wire_id: WireId::of(id),
        leg: Some(leg),
        kind: Kind::New,
        endpoint: destination.endpoint.clone(),
        recipient: destination.agency.clone(),
        service: Some(destination.service.clone()),
        content: Some(content),
        note: None,
        version,
        due: now,
        deadline: now.plus(endpoint.deadline),
        urgent,
        replaces: None,
    })
}

pub(super) fn unroutable(why: &Unroutable) -> ServiceError {
    let violation = why.violation();
    ServiceError {
        violations: vec![violation],
        ..ServiceError::new(ErrorKind::Invalid, "UNKNOWN_VOCABULARY")
    }
}
