//! One message's conversation: the answers that speak of it, and what they mean.

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};
use tracing::warn;
use waymark_core::delivery::{Evidence, Outcome, ParkReason, Why};
use waymark_core::directory::Endpoint;
use waymark_core::error::Fault;
use waymark_core::personal::Payload;

use super::super::ack::{AckCode, AckReading, DUPLICATE};
use super::super::config::{Resend, Settings};
use super::super::content::{Envelope, filled_text};
use super::super::fault::FieldFault;
use super::super::message::{LineEndings, Message};
use super::super::mllp::MllpError;
use super::super::status::RriMessage;
use super::pool::Line;

/// The most frames that are passed over while waiting for our acknowledgement.
pub const FRAMES_PASSED_OVER_MAX: usize = 100;

/// One message's conversation with one endpoint.
pub(super) struct Talk<'a> {
    pub(super) settings: &'a Settings,
    pub(super) endpoint: &'a Endpoint,
    pub(super) line: Line,
    /// The end of the attempt.
    pub(super) until: Instant,
    pub(super) passed_over: usize,
    /// Whether the receiver said anything since it was spoken to.
    pub(super) heard: bool,
    /// Whether the connection was found closed or broken.
    pub(super) is_lost: bool,
    /// Whether the conversation ended with its answer, so that another may follow on the connection.
    pub(super) ended_well: bool,
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        endpoint: &'a Endpoint,
        line: Line,
        until: Instant,
    ) -> Self {
        Self {
            settings,
            endpoint,
            line,
            until,
            passed_over: 0,
            heard: false,
            is_lost: false,
            ended_well: false,
        }
    }

    /// Goes from the question to the message itself.
    pub(super) fn turn(&mut self) {
        self.heard = false;
        self.line.has_served = true;
    }

    /// Whether the receiver had closed the connection after an earlier message, before it said anything of this one.
    /// Where repeats are told by their id, the same bytes may go on a new connection at once.
    pub(super) fn is_stale(&self) -> bool {
        let may_repeat = self.settings.resend == Resend::SameId;
        self.is_lost && !self.heard && self.line.has_served && may_repeat
    }
}

/// An answer that speaks of our message.
pub(super) struct Answer {
    pub(super) reading: AckReading,
    pub(super) message: Message,
    pub(super) said: Said,
    pub(super) body: Bytes,
}

/// What an answer says besides its acknowledgement.
pub(super) enum Said {
    /// Nothing.
    Nothing,
    /// A status.
    Status(Box<RriMessage>),
    /// A status that cannot be read.
    Unread {
        /// Its header, where that can be read.
        envelope: Option<Box<Envelope>>,
        /// What is wrong with it.
        fault: FieldFault,
    },
}

/// Reads frames until one acknowledges our message, passing over a bounded number of others.
pub(super) async fn next_answer(
    talk: &mut Talk<'_>,
    wire_id: &str,
    until: Instant,
) -> Result<Answer, Why> {
    while talk.passed_over < FRAMES_PASSED_OVER_MAX {
        let frame = match timeout_at(until, talk.line.frames.next()).await {
            Err(_) => return Err(Why::new("mllp.no_ack", "no acknowledgement in time")),
            Ok(None) => {
                talk.is_lost = true;
                return Err(Why::new(
                    "mllp.closed",
                    "the receiver closed the connection",
                ));
            }
            Ok(Some(Err(error))) => {
                talk.is_lost = matches!(error, MllpError::Io(_));
                return Err(Why::new("mllp.frame", error.to_string()));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        talk.heard = true;
        if frame.junk_before > 0 {
            let junk = frame.junk_before;
            warn!(endpoint.id = %talk.endpoint.id, "skipped {junk} bytes outside any frame");
        }
        let parsed = Message::parse(&frame.body, LineEndings::Cr);
        let Ok(message) = parsed else {
            talk.passed_over += 1;
            continue;
        };
        match AckReading::read(&message) {
            Ok(reading) if reading.control_id == wire_id => {
                let said = status_in(&message, talk.endpoint);
                return Ok(Answer {
                    reading,
                    message,
                    said,
                    body: frame.body,
                });
            }
            Ok(_) | Err(_) => talk.passed_over += 1,
        }
    }
    Err(Why::new(
        "mllp.no_ack",
        "too many frames, none of them about this message",
    ))
}

/// Reads the status that an answer may be.
fn status_in(message: &Message, endpoint: &Endpoint) -> Said {
    let header = message.segment("MSH", 1);
    let code = header.and_then(|msh| filled_text(msh, 9, 1));
    if code.as_deref() != Some("RRI") {
        return Said::Nothing;
    }
    match RriMessage::read(message) {
        Ok(rri) => Said::Status(Box::new(rri)),
        Err(fault) => {
            warn!(endpoint.id = %endpoint.id, "status in an answer not read: {fault}");
            let envelope = Envelope::read(message).ok().map(Box::new);
            Said::Unread { envelope, fault }
        }
    }
}

/// Ends an attempt whose acknowledgement did not come.
pub(super) fn ended_without(committed: Option<Answer>, why: Why, settings: &Settings) -> Outcome {
    match committed {
        // The receiver holds it safely; its application's answer may still come by its own way.
        Some(answer) => Outcome::Delivered {
            grade: Evidence::TransportAck,
            awaiting: Some(Evidence::ApplicationAck),
            receiver_reference: None,
            receipt: Some(Payload::new(answer.body.to_vec())),
        },
        None => unknown(why, settings),
    }
}

/// Bytes may have arrived: they are sent again only where the receiver tells repeats by their id.
pub(super) fn unknown(why: Why, settings: &Settings) -> Outcome {
    match settings.resend {
        Resend::SameId => Outcome::Unknown { why },
        Resend::Never => Outcome::ParkWritten {
            reason: ParkReason::Refused,
            why,
        },
    }
}

/// Refuses an acknowledgement that names somebody else as its sender: whoever that is has what was written. A blank
/// name names nobody.
pub(super) fn wrong_sender(reading: &AckReading, settings: &Settings) -> Option<Outcome> {
    let differs = |said: &str, bound: &str| !said.is_empty() && said != bound;
    let wrong = differs(&reading.sending_app, &settings.receiving.app)
        || differs(&reading.sending_facility, &settings.receiving.facility);
    wrong.then(|| Outcome::ParkWritten {
        reason: ParkReason::WrongRecipient,
        why: Why::new(
            "mllp.wrong_recipient",
            "MSH-3 and 4 of the answer are not the endpoint's",
        ),
    })
}

/// What an acknowledgement means.
pub(super) enum Verdict {
    /// Safely stored; the application has yet to answer.
    Committed,
    /// The application took it.
    Accepted,
    /// The attempt is over.
    Ended(Outcome),
}

/// Says what an acknowledgement means (ruling 10).
pub(super) fn judge(reading: &AckReading) -> Verdict {
    let code = reading.code;
    let why = || reading.why("mllp");
    let is_reject = match code {
        AckCode::CommitAccept => return Verdict::Committed,
        AckCode::ApplicationAccept => return Verdict::Accepted,
        AckCode::ApplicationReject | AckCode::CommitReject => true,
        AckCode::ApplicationError | AckCode::CommitError => false,
    };
    Verdict::Ended(match reading.error_code {
        Some(DUPLICATE) => Outcome::Duplicate { why: why() },
        Some(206 | 207) => Outcome::Retry {
            after: None,
            why: why(),
        },
        Some(number @ 100..=204) if is_reject => {
            let fault = if number < 200 {
                Fault::Send
            } else {
                Fault::Rec
            };
            Outcome::Reject { why: why(), fault }
        }
        _ if is_reject => Outcome::SoftReject { why: why() },
        _ => Outcome::Park {
            reason: ParkReason::Refused,
            why: why(),
        },
    })
}
