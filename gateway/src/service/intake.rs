//! The one door for everything that adapters take in.

use std::collections::BTreeSet;

use async_trait::async_trait;
use aws_lc_rs::digest::{Context, SHA256};
use waymark_core::access::{Action, Principal, Role};
use waymark_core::audit::{CommitmentTag, EntryKind};
use waymark_core::delivery::{DeliveryState, Evidence};
use waymark_core::error::{ErrorKind, Violation};
use waymark_core::id::{Reference, ReferralId, WireId};
use waymark_core::leg::{LegState, Reception, referral_state};
use waymark_core::personal::Payload;
use waymark_core::port::{
    Channel, EventKind, Inbound, InboundBody, InboundDocument, InboundStatus, Intake, IntakeAnswer,
    IntakeError, NewEvent, RaiseEvidence, ReferralKey, ReferralView, StopNotice,
};
use waymark_core::referral::{Referral, SenderReference};

use super::change::{SenderAct, SenderMessage};
use super::submit::{Envelope, canonical};
use super::{Key, Service, ServiceError, StatusUpdate, actor_of, sha256_hex};

/// Takes in what adapters receive.
#[derive(Clone)]
pub struct IntakeService {
    service: Service,
}

impl IntakeService {
    /// Wraps the use cases.
    pub const fn new(service: Service) -> Self {
        Self { service }
    }
}

impl From<ServiceError> for IntakeError {
    fn from(error: ServiceError) -> Self {
        if matches!(
            error.kind,
            ErrorKind::Internal | ErrorKind::Corrupt | ErrorKind::Unavailable
        ) {
            tracing::error!(reason = error.reason, error = %crate::telemetry::chain(&error), "an inbound message was not taken");
        }
        Self {
            kind: error.kind,
            violations: error.violations,
            reason: error.reason,
        }
    }
}

#[async_trait]
impl Intake for IntakeService {
    async fn take(&self, message: Inbound) -> Result<IntakeAnswer, IntakeError> {
        let caller = self.service.inbound_principal(&message)?;
        let answer = match message.body {
            InboundBody::Submit(mut referral) => {
                let (key, attached) = (&message.message_key, message.attachments);
                self.keep(&caller, key, attached, &mut referral).await?;
                let content = canonical(&referral)?;
                let envelope = Envelope {
                    key: message.message_key,
                    content: message.fingerprint.clone(),
                    fingerprint: message.fingerprint,
                    original: Some((message.media_type, message.original)),
                    conversation: message.conversation,
                    traceparent: message.traceparent,
                };
                let accepted = self
                    .service
                    .accept(&caller, *referral, content, envelope)
                    .await?;
                IntakeAnswer {
                    referral: accepted.referral,
                    reference: accepted.reference,
                    repeated: accepted.repeated,
                    state: Some(LegState::Submitted),
                }
            }
            InboundBody::Amend(reference, mut referral) => {
                let (key, attached) = (&message.message_key, message.attachments);
                if !attached.is_empty() {
                    let named = key_of(reference.clone());
                    self.service.find(&caller, &named, Action::Amend).await?;
                }
                self.keep(&caller, key, attached, &mut referral).await?;
                let content = canonical(&referral)?;
                let act = SenderAct::Amend {
                    content,
                    referral,
                    expected: None,
                    answers: BTreeSet::new(),
                };
                let message = SenderMessage {
                    key: message.message_key,
                    content: message.fingerprint,
                    act,
                    traceparent: message.traceparent,
                };
                self.sender(&caller, reference, message).await?
            }
            InboundBody::Cancel(reference, code, text) => {
                let stop = StopNotice::Cancelled { code, text };
                let envelope = (
                    message.message_key,
                    message.fingerprint,
                    message.traceparent,
                );
                self.stop(&caller, reference, stop, envelope).await?
            }
            InboundBody::Withdraw(reference, withdrawal) => {
                let wrong = withdrawal.violations(self.service.now().london_date());
                if !wrong.is_empty() {
                    return Err(ServiceError::invalid(wrong).into());
                }
                let stop = StopNotice::Withdrawn(withdrawal);
                let envelope = (
                    message.message_key,
                    message.fingerprint,
                    message.traceparent,
                );
                self.stop(&caller, reference, stop, envelope).await?
            }
            InboundBody::Status(status) => {
                let own = self.service.family_evidence(
                    &caller,
                    &message.channel,
                    &status,
                    &message.original,
                );
                if let Some(answer) = own.await? {
                    return Ok(answer);
                }
                let version = status
                    .source_version
                    .unwrap_or_else(|| version_of(&message.message_key, &message.fingerprint));
                self.service
                    .inbound_status(
                        &caller,
                        status,
                        version,
                        message.original,
                        message.traceparent,
                    )
                    .await?
            }
            InboundBody::Undelivered(undelivered) => {
                self.service
                    .undelivered(&caller, &message.channel, undelivered)
                    .await?
            }
            InboundBody::Enquiry(reference) => self.service.enquired(&caller, reference).await?,
        };
        Ok(answer)
    }
}

impl IntakeService {
    /// A cancel or a withdrawal.
    async fn stop(
        &self,
        caller: &Principal,
        reference: SenderReference,
        stop: StopNotice,
        (key, content, traceparent): (String, Payload, Option<String>),
    ) -> Result<IntakeAnswer, IntakeError> {
        let message = SenderMessage {
            key,
            content,
            act: SenderAct::Stop(stop),
            traceparent,
        };
        self.sender(caller, reference, message).await
    }

    async fn sender(
        &self,
        caller: &Principal,
        reference: SenderReference,
        message: SenderMessage,
    ) -> Result<IntakeAnswer, IntakeError> {
        let key = key_of(reference.clone());
        let changed = self.service.sender_change(caller, &key, &message).await;
        let result = match changed {
            // What looks like a reference of ours may be another gateway's, and here its sender's own.
            Err(error) if error.kind == ErrorKind::NotFound && matches!(key, Key::Reference(_)) => {
                let key = Key::SenderReference(reference);
                self.service.sender_change(caller, &key, &message).await?
            }
            changed => changed?,
        };
        Ok(IntakeAnswer {
            referral: result.referral.id,
            state: state_of(&result.referral),
            reference: result.referral.reference,
            repeated: result.repeated,
        })
    }

    /// Keeps documents that came inline, all or none of them, and names them in the referral. Their ids follow from the
    /// message, so that the same message again keeps nothing twice.
    async fn keep(
        &self,
        caller: &Principal,
        message_key: &str,
        attached: Vec<InboundDocument>,
        referral: &mut Referral,
    ) -> Result<(), ServiceError> {
        if attached.is_empty() {
            return Ok(());
        }
        self.service.check_inbound(caller, referral, &attached)?;
        for (index, document) in attached.into_iter().enumerate() {
            let request = request_of(&caller.identity, message_key, index);
            let kept = self.service.keep_inbound(caller, request, document).await?;
            referral.documents.push(kept);
        }
        Ok(())
    }
}

/// What a sender calls its referral. BaRS names it by the id or the reference that our answer to it gave.
fn key_of(reference: SenderReference) -> Key {
    if reference.namespace.is_empty() {
        if let Ok(id) = reference.value.parse::<ReferralId>() {
            return Key::Id(id);
        }
        if let Ok(reference) = reference.value.parse::<Reference>() {
            return Key::Reference(reference);
        }
    }
    Key::SenderReference(reference)
}

/// The request id of a document that came inline: a digest over who sent it, in which message and where.
fn request_of(identity: &str, message_key: &str, index: usize) -> String {
    let text = format!("waymark/inbound-document/v1\0{identity}\0{message_key}\0{index}");
    format!("inline-{:.32}", sha256_hex(text.as_bytes()))
}

/// The referral's own state: a pure function of its legs.
fn state_of(view: &ReferralView) -> Option<LegState> {
    let legs: Vec<LegState> = view.legs.iter().map(|leg| leg.state).collect();
    referral_state(&legs)
}

/// A version for a wire that has none: the first 63 bits of a digest over the message's key and content, so that the same
/// message is seen to be the same, another under a key that was used before is not lost, and no order is claimed.
fn version_of(key: &str, content: &Payload) -> u64 {
    let mut context = Context::new(&SHA256);
    for part in [key.as_bytes(), &[0], content.expose()] {
        context.update(part);
    }
    let mut first = [0u8; 8];
    for (slot, byte) in first.iter_mut().zip(context.finish().as_ref()) {
        *slot = *byte;
    }
    u64::from_be_bytes(first) >> 1
}

impl Service {
    /// Binds a message to the agency of its channel; what it says of its sender must agree (ruling 9).
    fn inbound_principal(&self, message: &Inbound) -> Result<Principal, ServiceError> {
        let caller = self.on_channel(&message.channel)?;
        if let Some(environment) = message.environment
            && environment != self.parts.environment
        {
            return Err(
                ServiceError::new(ErrorKind::Denied, "WRONG_ENVIRONMENT").with_violation(
                    "environment",
                    format!(
                        "this deployment is {}: send test messages to a test deployment",
                        self.parts.environment.as_str()
                    ),
                ),
            );
        }
        if let Some(claimed) = &message.claimed_sender {
            let in_force = self.in_force();
            let agrees = in_force
                .directory
                .identities
                .get(&caller.identity)
                .is_some_and(|i| i.hl7_senders.contains(claimed));
            if !agrees {
                return Err(ServiceError::new(ErrorKind::Denied, "SENDER_MISMATCH").with_violation(
                    "sender",
                    "is not one that this channel may speak for: correct it or add it to the directory",
                ));
            }
        }
        Ok(caller)
    }

    /// Who speaks on a channel. What the gateway's own adapter collected at an endpoint speaks for the endpoint's agency.
    fn on_channel(&self, channel: &Channel) -> Result<Principal, ServiceError> {
        let id = match channel {
            Channel::Peer(name) => return self.principal(std::slice::from_ref(name)),
            Channel::Endpoint(id) => id,
        };
        let in_force = self.in_force();
        let endpoint = in_force.directory.endpoint(id, self.now().london_date());
        let endpoint =
            endpoint.ok_or_else(|| ServiceError::new(ErrorKind::Unauthenticated, "NO_ENDPOINT"))?;
        let identity = format!("endpoint:{id}");
        Ok(Principal {
            agency: endpoint.agency.clone(),
            actor: actor_of(&identity),
            identity,
            roles: [Role::Agency].into(),
            acts_for: BTreeSet::new(),
        })
    }

    /// Where a referral stands, for one of its parties.
    async fn enquired(
        &self,
        caller: &Principal,
        reference: SenderReference,
    ) -> Result<IntakeAnswer, ServiceError> {
        let own = if let Ok(reference) = reference.value.parse::<Reference>() {
            Some(Key::Reference(reference))
        } else {
            reference.value.parse::<ReferralId>().ok().map(Key::Id)
        };
        let found = match &own {
            Some(key) => self.find(caller, key, Action::ReadReferral).await,
            None => Err(ServiceError::new(ErrorKind::NotFound, "NO_SUCH_REFERRAL")),
        };
        let (view, _permit) = match found {
            // What looks like a reference of ours may be another gateway's, and here its sender's own.
            Err(error) if error.kind == ErrorKind::NotFound => {
                let key = Key::SenderReference(reference);
                self.find(caller, &key, Action::ReadReferral).await?
            }
            found => found?,
        };
        Ok(IntakeAnswer {
            referral: view.id,
            state: state_of(&view),
            reference: view.reference,
            repeated: true,
        })
    }

    /// A receiver's status, which may also be evidence for the delivery that it answers.
    async fn inbound_status(
        &self,
        caller: &Principal,
        status: InboundStatus,
        version: u64,
        original: Payload,
        traceparent: Option<String>,
    ) -> Result<IntakeAnswer, ServiceError> {
        let unknown = || {
            ServiceError::new(ErrorKind::NotFound, "NO_SUCH_REFERRAL").with_violation(
                "referral",
                "is not a reference of this gateway: echo the one it sent",
            )
        };
        let id = self
            .referral_named(caller, &status)
            .await?
            .ok_or_else(unknown)?;
        // Evidence alone moves no leg: whoever a delivery was for, the sender that is told of a status too, may give it.
        let action = match status.state {
            LegState::Submitted => Action::ReadReferral,
            _ => Action::UpdateStatus,
        };
        let (view, _permit) = self.find(caller, &Key::Id(id), action).await?;
        self.raise(caller, &view, &status, original).await?;
        let leg = status.answers.as_ref().and_then(|wire| {
            view.deliveries
                .iter()
                .find(|d| d.wire_id.as_str() == wire)
                .and_then(|d| d.leg)
        });
        if status.state == LegState::Submitted {
            return Ok(IntakeAnswer {
                referral: id,
                state: state_of(&view),
                reference: view.reference,
                repeated: false,
            });
        }
        let update = StatusUpdate {
            key: Key::Id(id),
            leg,
            source_version: version,
            state: status.state,
            reason_code: status.reason_code,
            text: status.text,
            due: status.due,
            at: status.at,
            receiver_reference: status.receiver_reference,
            owner_role: None,
            traceparent,
        };
        let result = self.update_status(caller, update).await?;
        Ok(IntakeAnswer {
            referral: id,
            state: state_of(&result.referral),
            reference: result.referral.reference,
            repeated: result.reception == Reception::Repeated,
        })
    }

    async fn referral_named(
        &self,
        caller: &Principal,
        status: &InboundStatus,
    ) -> Result<Option<ReferralId>, ServiceError> {
        let store = &self.parts.store;
        if let Ok(reference) = status.referral.parse::<Reference>() {
            return Ok(store.resolve(&ReferralKey::Reference(reference)).await?);
        }
        if let Ok(id) = status.referral.parse::<ReferralId>() {
            return Ok(Some(id));
        }
        if let Some(wire) = status
            .answers
            .as_deref()
            .and_then(|w| w.parse::<WireId>().ok())
            && let Some(id) = store.resolve(&ReferralKey::Wire(wire)).await?
        {
            return Ok(Some(id));
        }
        match &status.receiver_reference {
            Some(r) => Ok(store
                .resolve(&ReferralKey::Receiver(caller.agency.clone(), r.clone()))
                .await?),
            None => Ok(None),
        }
    }

    pub(super) async fn raise(
        &self,
        caller: &Principal,
        view: &ReferralView,
        status: &InboundStatus,
        original: Payload,
    ) -> Result<(), ServiceError> {
        let Some(wire) = &status.answers else {
            return Ok(());
        };
        let answered = view
            .deliveries
            .iter()
            .find(|d| d.wire_id.as_str() == wire && self.owns(caller, &d.recipient));
        let Some(delivery) = answered else {
            return Err(ServiceError::invalid(vec![Violation::new(
                "answers",
                "is not the id of a delivery of this referral to you: echo the id of the message that it answers",
            )]));
        };
        // A receiver that had the message before the first answer arrived says only now under which reference.
        let named = status.receiver_reference.is_some()
            && delivery.receiver_reference.is_none()
            && delivery.state != DeliveryState::Attempting;
        if delivery.attempts == 0 || (status.grade <= delivery.evidence && !named) {
            return Ok(());
        }
        let now = self.now();
        let draft = self.drafter();
        let grade = status.grade.max(delivery.evidence);
        let mut entry = draft
            .entry(EntryKind::Receipt, view.stream, caller, now)
            .code("delivery", delivery.id.to_string())
            .code("evidence", grade.as_str());
        let opening = draft.commit(&mut entry, CommitmentTag::Answer, original.expose());
        let in_force = self.in_force();
        let endpoint = in_force.directory.endpoints.get(&delivery.endpoint);
        let raise = RaiseEvidence {
            delivery: delivery.id,
            grade,
            releases_at: endpoint.map_or(Evidence::ApplicationAck, |e| e.releases_at),
            at: now,
            receiver_reference: status.receiver_reference.clone(),
            receipt: Some(draft.body(now, "application/octet-stream", original.into_inner())),
            event: Some(NewEvent {
                id: entry.event,
                kind: EventKind::Delivery,
                leg: delivery.leg,
                delivery: Some(delivery.id),
                source: caller.agency.clone(),
                source_version: None,
                state: None,
                reception: None,
                code: "evidence".to_owned(),
                text: None,
            }),
            entry,
            openings: vec![opening],
        };
        Ok(self.parts.store.raise_evidence(raise).await?)
    }
}
