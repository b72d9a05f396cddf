//! Sending over MLLP: one frame, then one acknowledgement that is ours, on a connection that may have served before.
//!
//! A connection carries one message at a time; nothing but the connection is kept between messages (`pool`). An
//! acknowledgement counts only when its MSA-2 is our MSH-10: some receivers send those of earlier messages again
//! first. A kept connection that its receiver closed before it said anything costs nothing but a new connection: the
//! same bytes go once more, where the receiver tells repeats by their id.

mod answer;
mod ask;
mod pool;
mod talk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};
use waymark_core::delivery::{Outcome, ParkReason, Repeat, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::personal::Payload;
use waymark_core::port::{
    Adapter, Collected, Deadline, Identification, Intake, Outbound, Probe, ProbeStage,
    Reconciliation, RenderError, Rendered, Sent, Source,
};
use waymark_core::time::Clock;

use self::ask::Permission;
use self::pool::{Line, Lines};
use self::talk::{Answer, Talk, Verdict, ended_without, judge, next_answer, unknown, wrong_sender};
use super::config::{Resend, Settings, Transport};
use super::map;
use super::mllp;
use super::peer::{self, Stream, Unreachable};
use crate::connect::{self, Stage};

pub use self::pool::CONNECTION_IDLE_MAX;
pub use self::talk::FRAMES_PASSED_OVER_MAX;

/// The media type of what is rendered: a whole MLLP frame.
pub const MEDIA_TYPE: &str = "x-application/hl7-v2+er7";
/// The most connections of one attempt: one that was kept and proves to be closed, a new one that its receiver closes
/// after the question, one for the message.
const CONNECTIONS_OF_ATTEMPT_MAX: u32 = 3;

/// TLS settings for connecting, by the name of their profile.
pub type TlsProfiles = BTreeMap<String, Arc<ClientConfig>>;

/// The HL7 v2 adapter's outbound side.
pub struct Hl7v2Adapter {
    profiles: TlsProfiles,
    environment: Environment,
    clock: Arc<dyn Clock>,
    intake: Option<Arc<dyn Intake>>,
    lines: Lines,
}

impl std::fmt::Debug for Hl7v2Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hl7v2Adapter")
            .field("profiles", &self.profiles.len())
            .finish_non_exhaustive()
    }
}

impl Hl7v2Adapter {
    /// Makes the adapter of a test or a live gateway. Endpoints name one of the TLS profiles, or `default`.
    pub fn new(profiles: TlsProfiles, environment: Environment, clock: Arc<dyn Clock>) -> Self {
        Self {
            profiles,
            environment,
            clock,
            intake: None,
            lines: Lines::default(),
        }
    }

    /// Gives it the door for statuses that receivers send as their application acknowledgement (RRI).
    #[must_use]
    pub fn with_intake(mut self, intake: Arc<dyn Intake>) -> Self {
        self.intake = Some(intake);
        self
    }

    /// Says one message on one connection, after its question where there is one.
    async fn say(
        &self,
        talk: &mut Talk<'_>,
        message: &Outbound<'_>,
        progress: &mut Progress,
    ) -> Outcome {
        if !progress.is_granted {
            progress.times_asked += 1;
            match self.ask(talk, message, progress.times_asked).await {
                Permission::Granted => progress.is_granted = true,
                Permission::Ended(outcome) => return outcome,
            }
            talk.turn();
        }
        progress.times_written += 1;
        let written = write(talk.line.frames.get_mut(), message.rendered);
        let text = match timeout_at(talk.until, written).await {
            Ok(Ok(())) => return self.await_answer(talk, message).await,
            Ok(Err(_)) => {
                talk.is_lost = true;
                "the connection broke while the message was written"
            }
            Err(_) => "the message could not be written in time",
        };
        unknown(Why::new("mllp.write", text), talk.settings)
    }

    /// A connection for the next message: one that was kept, else a new one.
    async fn line(
        &self,
        settings: &Settings,
        endpoint: &Endpoint,
        until: Instant,
        from: From,
    ) -> Result<Line, Outcome> {
        if settings.reuse_connection
            && from == From::Kept
            && let Some(line) = self.lines.take(endpoint, Instant::now())
        {
            return Ok(line);
        }
        let until = until.min(Instant::now() + settings.connect_timeout);
        match peer::connect(settings, &self.profiles, until).await {
            Ok(stream) => Ok(Line::new(stream, Instant::now())),
            Err(unreachable) => Err(not_sent(unreachable)),
        }
    }

    /// Keeps a connection whose conversation ended well; every other is closed.
    fn let_go(&self, talk: Talk<'_>) {
        if talk.ended_well && talk.settings.reuse_connection {
            self.lines.keep(talk.endpoint, talk.line, Instant::now());
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
                Verdict::Accepted => {
                    let outcome = self.accepted(talk, message, answer).await;
                    talk.ended_well = true;
                    return outcome;
                }
                Verdict::Ended(outcome) => {
                    talk.ended_well = true;
                    return outcome;
                }
            }
        }
    }
}

/// Where the connection of a message may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// One that was kept, if there is one.
    Kept,
    /// A new one alone.
    New,
}

/// How far one attempt has come, over all its connections.
struct Progress {
    /// Whether the message may be written: it needs no question, or its question was answered.
    is_granted: bool,
    /// How often it was asked about.
    times_asked: u32,
    /// On how many connections it was written, or begun to be.
    times_written: u32,
}

impl Progress {
    /// What an attempt's end is worth after bytes went out more than once.
    fn settled(&self, outcome: Outcome, settings: &Settings) -> Outcome {
        match outcome {
            // It is this attempt's own bytes that it knows: the next one may count on that, this one may not.
            Outcome::Duplicate { why } if self.times_written > 1 => Outcome::Unknown { why },
            // No new connection, and nobody knows what became of what went before.
            Outcome::Retry { why, .. } if self.times_written > 0 && is_connecting(&why) => {
                unknown(why, settings)
            }
            outcome => outcome,
        }
    }
}

#[async_trait]
impl Adapter for Hl7v2Adapter {
    fn repeat(&self, endpoint: &Endpoint) -> Repeat {
        match Settings::read(endpoint).map(|settings| settings.resend) {
            Ok(Resend::SameId) => Repeat::DedupesById,
            Ok(Resend::Never) | Err(_) => Repeat::MustReconcile,
        }
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
        if source.environment != self.environment {
            let own = self.environment.as_str();
            let why = format!("this gateway is {own}: it sends no other messages");
            return Err(RenderError::CannotCarry(Violation::new("environment", why)));
        }
        let message = map::outward::render(source, &settings)?;
        let bytes = settings.dialect.charset.encode(&message);
        let bytes = bytes.map_err(|fault| {
            RenderError::CannotCarry(Violation::new("referral", fault.to_string()))
        })?;
        let frame = mllp::frame(&bytes).map_err(|error| {
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
        let mut progress = Progress {
            is_granted: !ask::is_asked_first(message, &settings),
            times_asked: 0,
            times_written: 0,
        };
        let mut from = From::Kept;
        let mut ended = retry(Why::new(
            "mllp.closed",
            "the receiver closes every connection",
        ));
        for _ in 0..CONNECTIONS_OF_ATTEMPT_MAX {
            let line = match self.line(&settings, message.endpoint, until, from).await {
                Ok(line) => line,
                Err(outcome) => return progress.settled(outcome, &settings),
            };
            let mut talk = Talk::new(&settings, message.endpoint, line, until);
            let outcome = self.say(&mut talk, message, &mut progress).await;
            let is_stale = talk.is_stale();
            self.let_go(talk);
            ended = progress.settled(outcome, &settings);
            if !is_stale {
                break;
            }
            from = From::New;
        }
        ended
    }

    /// A receiver that does not tell repeats by their id cannot be asked about one either: a person must.
    async fn reconcile(&self, _message: &Outbound<'_>, _deadline: Deadline) -> Reconciliation {
        let text = "an attempt may have arrived, and the receiver does not tell repeats: ask it";
        Reconciliation::Settled(Outcome::ParkWritten {
            reason: ParkReason::Refused,
            why: Why::new("mllp.no_repeat", text),
        })
    }

    fn inline_bytes_max(&self, endpoint: &Endpoint) -> u64 {
        Settings::read(endpoint).map_or(0, |settings| settings.dialect.inline_bytes_max)
    }

    /// Nothing waits for us at an MLLP receiver: the round closes connections that have been idle too long.
    fn collect_every(&self, _endpoint: &Endpoint) -> Option<Duration> {
        Some(CONNECTION_IDLE_MAX)
    }

    async fn collect(
        &self,
        _endpoint: &Endpoint,
        _sent: &[Sent],
        _intake: &dyn Intake,
        _deadline: Deadline,
    ) -> Collected {
        self.lines.close_idle(Instant::now());
        Collected::default()
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
                return connect::unusable(&detail);
            }
        };
        let until = Instant::now() + deadline.within.min(settings.connect_timeout);
        let is_plain = matches!(settings.transport, Transport::Plain { .. });
        let reached = match peer::connect(&settings, &self.profiles, until).await {
            Err(unreachable) => Err((unreachable.stage, unreachable.why.text)),
            Ok(_) if is_plain => Ok(()),
            Ok(mut stream) => connect::unrefused(&mut stream, until)
                .await
                .map_err(|error| (error.stage(), error.to_string())),
        };
        match reached {
            Ok(()) => Probe {
                stages: Stage::ALL.map(|stage| passed(stage, is_plain)).into(),
            },
            Err((stage, why)) => connect::failed(stage, &why),
        }
    }
}

/// Writes the whole frame at once: some receivers answer only what comes in one piece.
async fn write(stream: &mut Box<dyn Stream>, rendered: &Rendered) -> std::io::Result<()> {
    stream.write_all(rendered.bytes.expose()).await?;
    stream.flush().await
}

fn retry(why: Why) -> Outcome {
    Outcome::Retry { after: None, why }
}

/// Nothing was written: try again, unless somebody else answered in the receiver's place.
fn not_sent(unreachable: Unreachable) -> Outcome {
    match unreachable.stage {
        Stage::Name | Stage::Tcp | Stage::Tls | Stage::Application => retry(unreachable.why),
        Stage::Identity => Outcome::Park {
            reason: ParkReason::WrongRecipient,
            why: unreachable.why,
        },
    }
}

/// Whether a cause is that no connection was had.
fn is_connecting(why: &Why) -> bool {
    let stages = Stage::ALL.into_iter().map(Stage::word);
    why.code == "mllp.connect"
        || stages
            .into_iter()
            .any(|word| why.code == format!("mllp.{word}"))
}

/// A stage of a receiver that was reached.
fn passed(stage: Stage, is_plain: bool) -> ProbeStage {
    match stage {
        Stage::Application => stage.told(None, "MLLP has no question without a message"),
        Stage::Tls | Stage::Identity if is_plain => stage.told(None, "plain MLLP proves nothing"),
        _ => stage.told(Some(true), "passed"),
    }
}

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod reuse_tests;
#[cfg(test)]
mod tests;
