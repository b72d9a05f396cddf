//! Asking before a cancel (REF^I15): a receiver that has booked, begun or ended is not told to cancel blindly.
//!
//! It is asked only while no earlier attempt of the cancel may have arrived: of one that has, the receiver would say that
//! the referral has ended. That cancel goes again under its own id instead, by which its receiver knows it.
//!
//! The question goes on the connection that the cancel would go on. What the answer (RRI^I15) lets through is in
//! [`lets_cancel`]; no answer lets nothing through, and the cancel waits.

use bytes::Bytes;
use futures::SinkExt;
use tokio::time::{Instant, timeout_at};
use waymark_core::delivery::{Kind, Outcome, ParkReason, Why};
use waymark_core::error::Fault;
use waymark_core::id::Reference;
use waymark_core::port::Outbound;

use super::super::config::Settings;
use super::super::fault::{ErrorCode, FieldFault};
use super::super::map::status::lets_cancel;
use super::super::message::{LineEndings, Message};
use super::super::mllp::unframed;
use super::super::separators::Separators;
use super::super::status::RriMessage;
use super::Hl7v2Adapter;
use super::answer::Kept;
use super::talk::{Answer, Said, Talk, Verdict, judge, next_answer, wrong_sender};

/// Segments of a cancel that its question repeats.
const REPEATED: [&str; 3] = ["RF1", "PRD", "PID"];

/// What the receiver's answer means for the cancel.
pub(super) enum Permission {
    /// It may go.
    Granted,
    /// It may not, and the attempt ends so.
    Ended(Outcome),
}

/// Whether a message is asked about before it is written. Consent that is withdrawn is told in any case.
pub(super) fn is_asked_first(message: &Outbound<'_>, settings: &Settings) -> bool {
    settings.ask_before_cancel && message.kind == Kind::Cancel && !message.may_have_arrived
}

/// The question about a cancel.
struct Question {
    /// Its MSH-10: `WQ`, the attempt and which question of it this is in hexadecimal, the end of the cancel's own id.
    id: String,
    /// RF1-6 of the cancel.
    reference: String,
    /// Its bytes.
    bytes: Bytes,
}

fn question(message: &Outbound<'_>, settings: &Settings, nth: u32) -> Option<Question> {
    let own: Vec<char> = message.wire_id.as_str().chars().collect();
    let end: String = own.iter().skip(own.len().saturating_sub(14)).collect();
    let id = format!("WQ{:03X}{:X}{end}", message.attempt & 0xfff, nth & 0xf);
    let cancel = Message::parse(unframed(message.rendered.bytes.expose()), LineEndings::Cr).ok()?;
    let reference = cancel.segment("RF1", 1)?.text(6, 1).into_owned();
    let header = cancel.segment("MSH", 1)?.raw().to_owned();
    let separator = Separators::STANDARD.field;
    let fields = header
        .split(separator)
        .enumerate()
        .map(|(at, field)| match at {
            // MSH-9 and MSH-10: the first field is the separator itself.
            8 => field.replacen("I14", "I15", 1),
            9 => id.clone(),
            _ => field.to_owned(),
        });
    let fields: Vec<String> = fields.collect();
    let mut text = fields.join(&separator.to_string());
    text.push('\r');
    let repeated = cancel.segments().filter(|it| REPEATED.contains(&it.name()));
    for segment in repeated {
        text.push_str(segment.raw());
        text.push('\r');
    }
    let bytes = settings.dialect.charset.encode(&text).ok()?;
    let bytes = Bytes::from(bytes);
    Some(Question {
        id,
        reference,
        bytes,
    })
}

fn later(code: &str, text: &str) -> Permission {
    Permission::Ended(Outcome::Retry {
        after: None,
        why: Why::new(code, text),
    })
}

fn park(why: Why) -> Permission {
    Permission::Ended(Outcome::Park {
        reason: ParkReason::Refused,
        why,
    })
}

impl Hl7v2Adapter {
    /// Asks where the referral of a cancel stands, and keeps what the receiver says.
    pub(super) async fn ask(
        &self,
        talk: &mut Talk<'_>,
        message: &Outbound<'_>,
        nth: u32,
    ) -> Permission {
        let Some(question) = question(message, talk.settings, nth) else {
            let text = "the stored cancel cannot be read back";
            return park(Why::new("mllp.ask", text));
        };
        let sent = timeout_at(talk.until, talk.line.frames.send(&question.bytes)).await;
        if !matches!(sent, Ok(Ok(()))) {
            talk.is_lost = sent.is_ok();
            return later("mllp.ask", "the status request could not be written");
        }
        let settings = talk.settings;
        let mut until = talk.until.min(Instant::now() + settings.ack_timeout);
        loop {
            let answer = match next_answer(talk, &question.id, until).await {
                Ok(answer) => answer,
                Err(why) => return later("mllp.ask_unanswered", &why.text),
            };
            if let Some(outcome) = wrong_sender(&answer.reading, settings) {
                return Permission::Ended(outcome);
            }
            match judge(&answer.reading) {
                Verdict::Committed => {
                    until = talk
                        .until
                        .min(Instant::now() + settings.application_ack_timeout);
                }
                Verdict::Accepted => {
                    return self.permitted(talk, message, &question, answer).await;
                }
                Verdict::Ended(outcome) => return refused(outcome),
            }
        }
    }

    async fn permitted(
        &self,
        talk: &mut Talk<'_>,
        message: &Outbound<'_>,
        question: &Question,
        answer: Answer,
    ) -> Permission {
        let rri = match &answer.said {
            Said::Nothing => {
                return later("mllp.ask_unanswered", "the status request got no RRI");
            }
            Said::Unread { envelope, fault } => {
                self.commit(talk, envelope.as_deref(), Err(fault)).await;
                return park(Why::new("mllp.ask", fault.to_string()));
            }
            Said::Status(rri) => rri,
        };
        let granted =
            of_this_referral(rri, question).and_then(|()| lets_cancel(rri, &talk.settings.codes));
        // Both facts belong on the timeline: that it was asked to cancel, and where it stood.
        let kept = match granted {
            Ok(true) => Ok(()),
            Ok(false) => match self.keep_status(talk, message, &answer, rri).await {
                Kept::NotYet => {
                    return later("mllp.status_not_kept", "the status could not be kept yet");
                }
                Kept::Refused(fault) => Err(fault),
                Kept::Yes | Kept::NotAsked => Ok(()),
            },
            Err(ref fault) => Err(fault.clone()),
        };
        self.commit(talk, Some(&rri.envelope), kept.as_ref().copied())
            .await;
        match kept {
            Err(fault) => park(Why::new("mllp.ask", fault.to_string())),
            Ok(()) if granted == Ok(true) => Permission::Granted,
            Ok(()) => {
                talk.ended_well = true;
                let text = "the receiver says that the referral is booked, begun, refused or ended";
                Permission::Ended(Outcome::Reject {
                    why: Why::new("mllp.cancel_refused", text),
                    fault: Fault::Rec,
                })
            }
        }
    }
}

/// Refuses an answer about another referral of ours. A receiver may say its own reference in RF1-6 instead of ours.
fn of_this_referral(rri: &RriMessage, question: &Question) -> Result<(), FieldFault> {
    let said = &rri.rf1.originating.id;
    if *said == question.reference || said.parse::<Reference>().is_err() {
        return Ok(());
    }
    let rule = "is another referral than the one that was asked about";
    Err(FieldFault::field("RF1", 6, rule, ErrorCode::UnknownKey))
}

/// A question that is refused: what may pass waits, the rest is for a person, and the cancel is never sent blindly.
fn refused(outcome: Outcome) -> Permission {
    match outcome {
        Outcome::Retry { after, why } => Permission::Ended(Outcome::Retry { after, why }),
        Outcome::SoftReject { why } => Permission::Ended(Outcome::SoftReject { why }),
        Outcome::Delivered { .. } => later("mllp.ask_unanswered", "the status request got no RRI"),
        Outcome::Duplicate { why }
        | Outcome::Unknown { why }
        | Outcome::Reject { why, .. }
        | Outcome::Park { why, .. }
        | Outcome::ParkWritten { why, .. }
        | Outcome::Unread { why, .. }
        | Outcome::Withheld { why } => {
            let text = format!("the status request was refused: {}", why.text);
            park(Why::new(format!("mllp.ask.{}", why.code), text))
        }
    }
}
