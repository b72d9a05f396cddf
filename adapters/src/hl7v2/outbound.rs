//! Sending over MLLP: one connection, one frame, one acknowledgement that is ours.
//!
//! A connection carries one message and is closed after it, so that nothing is shared between messages
//! and no earlier acknowledgement can be taken for a later one. An acknowledgement counts only when its
//! MSA-2 is our MSH-10: some receivers send those of earlier messages again first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};
use tokio_util::codec::Framed;
use tracing::{debug, warn};
use waymark_core::delivery::{Evidence, Outcome, ParkReason, Repeat, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::{Fault, Violation};
use waymark_core::personal::Payload;
use waymark_core::port::{
    Adapter, Channel, Deadline, Identification, InboundBody, Intake, Outbound, Probe, ProbeStage,
    RenderError, Rendered, Source,
};
use waymark_core::time::Clock;

use super::ack::{Ack, AckCode, AckReading};
use super::build::Processing;
use super::config::{Resend, Settings, Transport};
use super::fault::ErrorCode;
use super::inbound;
use super::map;
use super::message::{LineEndings, Message};
use super::mllp::{self, MllpCodec};
use super::peer::{self, Connection, Stage, Stream, Unreachable};
use super::status::RriMessage;

/// The media type of what is rendered: a whole MLLP frame.
pub const MEDIA_TYPE: &str = "x-application/hl7-v2+er7";
/// The most frames that are passed over while waiting for our acknowledgement.
pub const FRAMES_PASSED_OVER_MAX: usize = 100;

/// TLS settings for connecting, by the name of their profile.
pub type TlsProfiles = BTreeMap<String, Arc<ClientConfig>>;

/// The HL7 v2 adapter's outbound side.
pub struct Hl7v2Adapter {
    profiles: TlsProfiles,
    clock: Arc<dyn Clock>,
    intake: Option<Arc<dyn Intake>>,
}

impl std::fmt::Debug for Hl7v2Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hl7v2Adapter")
            .field("profiles", &self.profiles.len())
            .finish_non_exhaustive()
    }
}

impl Hl7v2Adapter {
    /// Makes the adapter. Endpoints name one of the TLS profiles, or `default`.
    pub fn new(profiles: TlsProfiles, clock: Arc<dyn Clock>) -> Self {
        Self {
            profiles,
            clock,
            intake: None,
        }
    }

    /// Gives it the door for statuses that receivers send as their application acknowledgement (RRI).
    #[must_use]
    pub fn with_intake(mut self, intake: Arc<dyn Intake>) -> Self {
        self.intake = Some(intake);
        self
    }

    /// Hands the status of an answer to the intake.
    async fn keep_status(&self, talk: &Talk<'_>, answer: &Answer, rri: &RriMessage) -> Kept {
        let Some(intake) = &self.intake else {
            return Kept::NotAsked;
        };
        let mut status = match map::status::read(rri) {
            Ok(status) => status,
            Err(fault) => {
                warn!(endpoint.id = %talk.endpoint.id, "status in an answer not read: {fault}");
                return Kept::Refused;
            }
        };
        // The attempt itself carries the evidence; the status is about the referral alone.
        status.answers = None;
        status.grade = Evidence::None;
        let body = InboundBody::Status(status);
        let name = talk.uri.clone();
        let name = name.unwrap_or_else(|| format!("mllp:{}", talk.endpoint.id));
        let channel = Channel::Peer(name);
        let (message, envelope) = (&answer.message, &rri.envelope);
        let inbound = inbound::inbound(message, envelope, &answer.body, channel, body);
        match timeout_at(talk.until, intake.take(inbound)).await {
            Ok(Ok(_)) => Kept::Yes,
            Ok(Err(error)) if !is_passing(error.kind) => {
                let reason = error.reason;
                warn!(endpoint.id = %talk.endpoint.id, "status in an answer refused: {reason}");
                Kept::Refused
            }
            Ok(Err(_)) | Err(_) => Kept::NotYet,
        }
    }

    /// Waits for the acknowledgements of one message and says how the attempt ended.
    async fn await_answer(&self, talk: &mut Talk<'_>, message: &Outbound<'_>) -> Outcome {
        let settings = talk.settings;
        let mut committed: Option<Answer> = None;
        let mut wait_until = talk.until.min(Instant::now() + settings.ack_timeout);
        loop {
            let answer = match next_answer(talk, message.wire_id.as_str(), wait_until).await {
                Ok(answer) => answer,
                Err(why) => return ended_without(committed, why, settings),
            };
            if let Some(outcome) = wrong_sender(&answer.reading, settings) {
                return outcome;
            }
            match judge(&answer.reading) {
                Verdict::Committed => {
                    wait_until = talk
                        .until
                        .min(Instant::now() + settings.application_ack_timeout);
                    committed = Some(answer);
                }
                Verdict::Accepted => return self.accepted(talk, answer).await,
                Verdict::Ended(outcome) => return outcome,
            }
        }
    }

    /// Ends an attempt that the application accepted, keeping the status that may come with it.
    async fn accepted(&self, talk: &mut Talk<'_>, answer: Answer) -> Outcome {
        let mut receiver_reference = None;
        if let Some(rri) = &answer.rri {
            if map::status::refuses_cancel(rri) {
                let why = Why::new("mllp.cancel_refused", "the receiver will not cancel");
                return Outcome::Reject {
                    why,
                    fault: Fault::Rec,
                };
            }
            if self.keep_status(talk, &answer, rri).await == Kept::NotYet {
                let text = "the answer's status could not be kept yet";
                return Outcome::Unknown {
                    why: Why::new("mllp.status_not_kept", text),
                };
            }
            receiver_reference = rri.rf1.external.first().map(|id| id.id.clone());
            self.commit(talk, rri).await;
        }
        Outcome::Delivered {
            grade: Evidence::ApplicationAck,
            awaiting: None,
            receiver_reference,
            receipt: Some(Payload::new(answer.body.to_vec())),
        }
    }

    /// Acknowledges an application answer that asks for it. Without it the receiver sends it again.
    async fn commit(&self, talk: &mut Talk<'_>, rri: &RriMessage) {
        if !rri.envelope.wants_commit_ack() {
            return;
        }
        let now = self.clock.now();
        let ack = Ack {
            answers: &rri.envelope,
            control_id: &format!("WC{:X}", now.as_ms()),
            at: jiff::Timestamp::from_millisecond(now.as_ms()).unwrap_or_default(),
            processing: match map::code::environment(&rri.envelope.processing_id) {
                Some(Environment::Live) => Processing::Production,
                Some(Environment::Test) | None => Processing::Training,
            },
            code: AckCode::CommitAccept,
            fault: None,
        };
        let written = ack.write();
        let sent = timeout_at(talk.until, talk.frames.send(written.as_bytes())).await;
        if !matches!(sent, Ok(Ok(()))) {
            debug!(endpoint.id = %talk.endpoint.id, "answer could not be acknowledged");
        }
    }
}

/// One message's conversation with one endpoint.
struct Talk<'a> {
    settings: &'a Settings,
    endpoint: &'a Endpoint,
    frames: Framed<Box<dyn Stream>, MllpCodec>,
    /// The SAN URI that the peer proved.
    uri: Option<String>,
    /// The end of the attempt.
    until: Instant,
    passed_over: usize,
}

/// An answer that speaks of our message.
struct Answer {
    reading: AckReading,
    message: Message,
    rri: Option<RriMessage>,
    body: Bytes,
}

/// What became of a status that came with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// It is durable.
    Yes,
    /// There is no intake to give it to.
    NotAsked,
    /// It will never be taken; the answer itself is kept as evidence.
    Refused,
    /// It may be taken later.
    NotYet,
}

/// Says whether the same call may succeed later.
fn is_passing(kind: waymark_core::error::ErrorKind) -> bool {
    use waymark_core::error::ErrorKind;
    match kind {
        ErrorKind::Exhausted
        | ErrorKind::Unavailable
        | ErrorKind::Internal
        | ErrorKind::Corrupt => true,
        ErrorKind::Invalid
        | ErrorKind::Unauthenticated
        | ErrorKind::Denied
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Precondition => false,
    }
}

/// Reads frames until one acknowledges our message, passing over a bounded number of others.
async fn next_answer(talk: &mut Talk<'_>, wire_id: &str, until: Instant) -> Result<Answer, Why> {
    while talk.passed_over < FRAMES_PASSED_OVER_MAX {
        let frame = match timeout_at(until, talk.frames.next()).await {
            Err(_) => return Err(Why::new("mllp.no_ack", "no acknowledgement in time")),
            Ok(None) => {
                return Err(Why::new(
                    "mllp.closed",
                    "the receiver closed the connection",
                ));
            }
            Ok(Some(Err(error))) => return Err(Why::new("mllp.frame", error.to_string())),
            Ok(Some(Ok(frame))) => frame,
        };
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
                let rri = status_in(&message, talk.endpoint);
                return Ok(Answer {
                    reading,
                    message,
                    rri,
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
fn status_in(message: &Message, endpoint: &Endpoint) -> Option<RriMessage> {
    match RriMessage::read(message) {
        Ok(rri) => Some(rri),
        Err(fault) if fault.hl7_code == ErrorCode::UnsupportedMessageType => None,
        Err(fault) => {
            warn!(endpoint.id = %endpoint.id, "status in an answer not read: {fault}");
            None
        }
    }
}

/// Ends an attempt whose acknowledgement did not come.
fn ended_without(committed: Option<Answer>, why: Why, settings: &Settings) -> Outcome {
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
fn unknown(why: Why, settings: &Settings) -> Outcome {
    match settings.resend {
        Resend::SameId => Outcome::Unknown { why },
        Resend::Never => Outcome::Park {
            reason: ParkReason::Refused,
            why,
        },
    }
}

/// Refuses an acknowledgement that names somebody else as its sender. A blank name names nobody.
fn wrong_sender(reading: &AckReading, settings: &Settings) -> Option<Outcome> {
    let differs = |said: &str, bound: &str| !said.is_empty() && said != bound;
    let wrong = differs(&reading.sending_app, &settings.receiving.app)
        || differs(&reading.sending_facility, &settings.receiving.facility);
    wrong.then(|| Outcome::Park {
        reason: ParkReason::WrongRecipient,
        why: Why::new(
            "mllp.wrong_recipient",
            "MSH-3 and 4 of the answer are not the endpoint's",
        ),
    })
}

enum Verdict {
    /// Safely stored; the application has yet to answer.
    Committed,
    /// The application took it.
    Accepted,
    /// The attempt is over.
    Ended(Outcome),
}

/// Says what an acknowledgement means (ruling 10).
fn judge(reading: &AckReading) -> Verdict {
    let code = reading.code;
    let why = || match reading.error_code {
        Some(number) => Why::new(
            format!("mllp.{}.{number}", code.code().to_lowercase()),
            format!("the receiver answered {} with error {number}", code.code()),
        ),
        None => Why::new(
            format!("mllp.{}", code.code().to_lowercase()),
            format!(
                "the receiver answered {} without an error code",
                code.code()
            ),
        ),
    };
    let is_reject = match code {
        AckCode::CommitAccept => return Verdict::Committed,
        AckCode::ApplicationAccept => return Verdict::Accepted,
        AckCode::ApplicationReject | AckCode::CommitReject => true,
        AckCode::ApplicationError | AckCode::CommitError => false,
    };
    Verdict::Ended(match reading.error_code {
        Some(205) => Outcome::Duplicate { why: why() },
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

#[async_trait]
impl Adapter for Hl7v2Adapter {
    fn repeat(&self) -> Repeat {
        Repeat::DedupesById
    }

    fn identification(&self, endpoint: &Endpoint) -> Identification {
        match Settings::read(endpoint).map(|settings| settings.transport) {
            Ok(Transport::Tls { .. }) => Identification::Certificate,
            Ok(Transport::Plain { .. }) | Err(_) => Identification::Network,
        }
    }

    fn validate(&self, endpoint: &Endpoint) -> Vec<Violation> {
        match Settings::read(endpoint) {
            Err(violations) => violations,
            Ok(Settings {
                transport: Transport::Tls { profile, .. },
                ..
            }) if !self.profiles.contains_key(&profile) => {
                vec![Violation::new(
                    "settings.tls_profile",
                    "names no TLS profile of this gateway",
                )]
            }
            Ok(_) => Vec::new(),
        }
    }

    fn render(&self, source: &Source, endpoint: &Endpoint) -> Result<Rendered, RenderError> {
        let settings = Settings::read(endpoint).map_err(|violations| {
            let first = violations.into_iter().next();
            RenderError::Settings(first.unwrap_or_else(|| Violation::new("settings", "are wrong")))
        })?;
        let message = map::outward::render(source, &settings)?;
        let frame = mllp::frame(message.as_bytes()).map_err(|error| {
            RenderError::CannotCarry(Violation::new("referral", error.to_string()))
        })?;
        Ok(Rendered {
            media_type: MEDIA_TYPE.to_owned(),
            bytes: Payload::new(frame.to_vec()),
        })
    }

    async fn deliver(&self, message: &Outbound<'_>, deadline: Deadline) -> Outcome {
        let until = Instant::now() + deadline.within;
        let Ok(settings) = Settings::read(message.endpoint) else {
            let why = Why::new("mllp.settings", "the endpoint's settings are wrong");
            return Outcome::Park {
                reason: ParkReason::NoEndpoint,
                why,
            };
        };
        if message.endpoint.agency != *message.recipient {
            let why = Why::new("mllp.wrong_recipient", "the endpoint is another agency's");
            return Outcome::Park {
                reason: ParkReason::WrongRecipient,
                why,
            };
        }
        let connect_until = until.min(Instant::now() + settings.connect_timeout);
        let connection =
            match timeout_at(connect_until, peer::connect(&settings, &self.profiles)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(unreachable)) => return not_sent(unreachable),
                Err(_) => return retry(Why::new("mllp.connect", "no connection in time")),
            };
        let Connection { stream, uri } = connection;
        let frames = Framed::new(stream, MllpCodec::default());
        let endpoint = message.endpoint;
        let mut talk = Talk {
            settings: &settings,
            endpoint,
            frames,
            uri,
            until,
            passed_over: 0,
        };
        let written = timeout_at(until, write(talk.frames.get_mut(), message.rendered)).await;
        if !matches!(written, Ok(Ok(()))) {
            let text = "the connection broke while the message was written";
            return unknown(Why::new("mllp.write", text), &settings);
        }
        self.await_answer(&mut talk, message).await
    }

    async fn probe(&self, endpoint: &Endpoint, deadline: Deadline) -> Probe {
        let settings = match Settings::read(endpoint) {
            Ok(settings) => settings,
            Err(violations) => {
                let detail = violations
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; ");
                return Probe {
                    stages: vec![stage(Stage::Name, Some(false), detail)],
                };
            }
        };
        let within = deadline.within.min(settings.connect_timeout);
        let reached = timeout_at(
            Instant::now() + within,
            peer::connect(&settings, &self.profiles),
        );
        let failed = match reached.await {
            Ok(Ok(_)) => None,
            Ok(Err(unreachable)) => Some((unreachable.stage, unreachable.why.text)),
            Err(_) => Some((Stage::Tcp, format!("no connection within {within:?}"))),
        };
        Probe {
            stages: stages(&settings, failed.as_ref()),
        }
    }
}

/// Writes the whole frame at once: some receivers answer only what comes in one piece.
async fn write(stream: &mut Box<dyn Stream>, rendered: &Rendered) -> std::io::Result<()> {
    stream.write_all(rendered.bytes.expose()).await?;
    stream.flush().await
}

fn retry(why: Why) -> Outcome {
    Outcome::Retry {
        after: None::<Duration>,
        why,
    }
}

/// Nothing was written: try again, unless somebody else answered in the receiver's place.
fn not_sent(unreachable: Unreachable) -> Outcome {
    match unreachable.stage {
        Stage::Name | Stage::Tcp | Stage::Tls => retry(unreachable.why),
        Stage::Identity => Outcome::Park {
            reason: ParkReason::WrongRecipient,
            why: unreachable.why,
        },
    }
}

fn stage(stage: Stage, passed: Option<bool>, detail: impl Into<String>) -> ProbeStage {
    ProbeStage {
        stage: stage.word(),
        passed,
        detail: detail.into(),
    }
}

fn stages(settings: &Settings, failed: Option<&(Stage, String)>) -> Vec<ProbeStage> {
    let is_plain = matches!(settings.transport, Transport::Plain { .. });
    let mut stages: Vec<ProbeStage> = Stage::ALL
        .into_iter()
        .map(|each| match failed {
            Some((at, detail)) if *at == each => stage(each, Some(false), detail.clone()),
            Some((at, _)) if *at < each => stage(each, None, "not reached"),
            _ if is_plain && each >= Stage::Tls => stage(each, None, "plain MLLP proves nothing"),
            _ => stage(each, Some(true), "passed"),
        })
        .collect();
    stages.push(ProbeStage {
        stage: "application",
        passed: None,
        detail: "MLLP has no question without a message".to_owned(),
    });
    stages
}

#[cfg(test)]
mod tests;
