//! What an answer says of a referral besides its acknowledgement: a status that is handed to the intake, and told to its
//! receiver as taken or not.

use std::time::Duration;

use futures::SinkExt;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};
use waymark_core::delivery::{Evidence, Kind, Outcome, ParkReason, Why};
use waymark_core::directory::Environment;
use waymark_core::error::Fault;
use waymark_core::personal::Payload;
use waymark_core::port::{Channel, InboundBody, Outbound};

use super::super::ack::{Ack, AckCode};
use super::super::build::Processing;
use super::super::content::Envelope;
use super::super::fault::FieldFault;
use super::super::status::RriMessage;
use super::super::{inbound, map};
use super::Hl7v2Adapter;
use super::talk::{Answer, Said, Talk};

/// Between two tries to keep a status that came with an answer.
const KEEP_PAUSE: Duration = Duration::from_secs(1);
/// What is left of an attempt to tell the receiver that a status was not kept.
const COMMIT_TIME: Duration = Duration::from_millis(500);

impl Hl7v2Adapter {
    /// Hands the status of an answer to the intake, as one of the delivery that was answered: by that it finds its leg,
    /// and a status of another referral is refused.
    pub(super) async fn keep_status(
        &self,
        talk: &Talk<'_>,
        answered: &Outbound<'_>,
        answer: &Answer,
        rri: &RriMessage,
    ) -> Kept {
        let Some(intake) = &self.intake else {
            return Kept::NotAsked;
        };
        let mut status = match map::status::read_answer(rri, &talk.settings.codes) {
            Ok(status) => status,
            Err(fault) => {
                warn!(endpoint.id = %talk.endpoint.id, "status in an answer not read: {fault}");
                return Kept::Refused(fault);
            }
        };
        // The attempt itself carries the evidence.
        status.answers = Some(answered.wire_id.to_string());
        status.grade = Evidence::None;
        let body = InboundBody::Status(status);
        // What we asked for at an endpoint of ours is its agency's word: MSH-3 and 4 were compared with its settings.
        let channel = Channel::Endpoint(talk.endpoint.id.clone());
        let (message, envelope) = (&answer.message, &rri.envelope);
        let mut inbound = inbound::inbound(message, envelope, &answer.body, channel, body);
        inbound.claimed_sender = None;
        // It came with this answer alone, and may never come again: it is asked for while there is time.
        let end = talk.until.checked_sub(COMMIT_TIME).unwrap_or(talk.until);
        loop {
            match timeout_at(end, intake.take(inbound.clone())).await {
                Ok(Ok(_)) => return Kept::Yes,
                Ok(Err(error)) if !inbound::reply::is_passing(error.kind) => {
                    let reason = error.reason;
                    warn!(endpoint.id = %talk.endpoint.id, "status in an answer refused: {reason}");
                    return Kept::Refused(inbound::reply::refusal(&error, "RRI").fault);
                }
                Ok(Err(_)) if Instant::now() + KEEP_PAUSE < end => sleep(KEEP_PAUSE).await,
                Ok(Err(_)) | Err(_) => return Kept::NotYet,
            }
        }
    }

    /// Ends an attempt that the application accepted, keeping the status that may come with it.
    pub(super) async fn accepted(
        &self,
        talk: &mut Talk<'_>,
        message: &Outbound<'_>,
        answer: Answer,
    ) -> Outcome {
        let rri = match &answer.said {
            Said::Nothing => return delivered(&answer, None),
            Said::Unread { envelope, fault } => {
                self.commit(talk, envelope.as_deref(), Err(fault)).await;
                return unread(message, &answer, fault);
            }
            Said::Status(rri) => rri,
        };
        let envelope = Some(&rri.envelope);
        if is_stop(message.kind) {
            match map::status::refuses_cancel(rri, &talk.settings.codes) {
                Ok(false) => {}
                Ok(true) => return self.cancel_refused(talk, message, &answer, rri).await,
                Err(fault) => {
                    self.commit(talk, envelope, Err(&fault)).await;
                    return unread(message, &answer, &fault);
                }
            }
        }
        match self.keep_status(talk, message, &answer, rri).await {
            Kept::Yes => self.commit(talk, envelope, Ok(())).await,
            Kept::NotAsked => {}
            Kept::Refused(fault) => {
                self.commit(talk, envelope, Err(&fault)).await;
                return unread(message, &answer, &fault);
            }
            Kept::NotYet => {
                // Sent again, the message might be answered as a repeat alone: the answer is kept as it came.
                let fault = inbound::reply::not_in_time().fault;
                self.commit(talk, envelope, Err(&fault)).await;
                let text = "the status in the answer could not be kept in time";
                return unread_with(&answer, Why::new("mllp.status_not_kept", text));
            }
        }
        delivered(&answer, map::status::receiver_reference(rri))
    }

    /// Ends a cancel that its receiver refused, keeping what it says of the referral. Where that cannot be kept it is told
    /// so; that it will not cancel stands all the same.
    async fn cancel_refused(
        &self,
        talk: &mut Talk<'_>,
        message: &Outbound<'_>,
        answer: &Answer,
        rri: &RriMessage,
    ) -> Outcome {
        let taken = match self.keep_status(talk, message, answer, rri).await {
            Kept::Yes | Kept::NotAsked => Ok(()),
            Kept::Refused(fault) => Err(fault),
            Kept::NotYet => Err(inbound::reply::not_in_time().fault),
        };
        self.commit(talk, Some(&rri.envelope), taken.as_ref().copied())
            .await;
        let why = Why::new("mllp.cancel_refused", "the receiver will not cancel");
        let fault = Fault::Rec;
        Outcome::Reject { why, fault }
    }

    /// Says to an application answer that asks for it whether it was taken. Until it is told so, its receiver sends it
    /// again.
    pub(super) async fn commit(
        &self,
        talk: &mut Talk<'_>,
        envelope: Option<&Envelope>,
        taken: Result<(), &FieldFault>,
    ) {
        let Some(answers) = envelope.filter(|it| it.wants_commit_ack(taken.is_ok())) else {
            return;
        };
        let now = self.clock.now();
        let ack = Ack {
            answers,
            control_id: &format!("WC{:X}", now.as_ms()),
            at: jiff::Timestamp::from_millisecond(now.as_ms()).unwrap_or_default(),
            processing: match map::code::environment(&answers.processing_id) {
                Some(Environment::Live) => Processing::Production,
                Some(Environment::Test) | None => Processing::Training,
            },
            code: match taken {
                Ok(()) => AckCode::CommitAccept,
                Err(_) => AckCode::CommitError,
            },
            fault: taken.err(),
        };
        let written = ack.write();
        let sent = timeout_at(talk.until, talk.line.frames.send(written.as_bytes())).await;
        if !matches!(sent, Ok(Ok(()))) {
            debug!(endpoint.id = %talk.endpoint.id, "answer could not be acknowledged");
        }
    }
}

/// Whether a message ends a referral at its receiver, which may refuse.
const fn is_stop(kind: Kind) -> bool {
    matches!(kind, Kind::Cancel | Kind::Withdraw)
}

fn delivered(answer: &Answer, receiver_reference: Option<String>) -> Outcome {
    Outcome::Delivered {
        grade: Evidence::ApplicationAck,
        awaiting: None,
        receiver_reference,
        receipt: Some(Payload::new(answer.body.to_vec())),
    }
}

/// Ends an attempt whose message the application took, with a status that cannot be read or kept. Of a cancel that
/// status is the answer itself, and nobody knows whether it was refused.
fn unread(message: &Outbound<'_>, answer: &Answer, fault: &FieldFault) -> Outcome {
    let text = format!("the status in the answer was not taken: {fault}");
    let why = Why::new("mllp.status_not_taken", text);
    if is_stop(message.kind) {
        return Outcome::ParkWritten {
            reason: ParkReason::Refused,
            why,
        };
    }
    unread_with(answer, why)
}

/// Ends an attempt whose message the application took, with an answer that a person must read.
fn unread_with(answer: &Answer, why: Why) -> Outcome {
    Outcome::Unread {
        grade: Evidence::ApplicationAck,
        receipt: Some(Payload::new(answer.body.to_vec())),
        why,
    }
}

/// What became of a status that came with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is durable.
    Yes,
    /// There is no intake to give it to.
    NotAsked,
    /// It will never be taken.
    Refused(FieldFault),
    /// It may be taken later.
    NotYet,
}
