//! The MLLP listener: takes referrals and answers in, and acknowledges what is durable.
//!
//! An acknowledgement is written only after the intake has answered. A message that cannot be taken is
//! refused with segment, field and code; one whose header cannot be read closes the connection. A status request is
//! answered with what it asks for.

pub(super) mod reply;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use waymark_core::directory::{CodeMap, Environment};
use waymark_core::personal::Payload;
use waymark_core::port::{
    Channel, Inbound, InboundBody, InboundDocument, Intake, IntakeAnswer, IntakeError,
};
use waymark_core::referral::SenderReference;
use waymark_core::time::Clock;

use self::reply::{Refusal, replies};
use super::ack::{Ack, AckCode};
use super::config::Assumptions;
use super::content::Envelope;
use super::fault::{ErrorCode, FieldFault};
use super::map;
use super::map::status::Answering;
use super::message::{LineEndings, MESSAGE_BYTES_MAX, Message};
use super::mllp::{Frame, MllpCodec, MllpError};
use super::outbound::MEDIA_TYPE;
use super::peer::{self, Stream};
use super::referral::RefMessage;

/// Connections that one listener serves at a time, unless it is told otherwise.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a frame may take to come whole, a handshake to end, an acknowledgement to be written.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may stay open without a message.
pub const IDLE_TIMEOUT: Duration = Duration::from_mins(15);
/// How long the intake may take before the sender is asked to send again.
pub const INTAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long open connections may take to finish their message at shutdown.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two tries to hand over an acknowledgement.
const ACK_PAUSE: Duration = Duration::from_secs(1);

/// Gives the TLS settings of the moment: asked for each connection, so that certificates may change.
pub type ServerTlsSource = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Gives the code map of who speaks on a connection, by the name that the channel proved: asked for each message, so
/// that a release of the directory holds at once.
pub type CodeSource = Arc<dyn Fn(&str) -> CodeMap + Send + Sync>;

/// How one listener behaves.
#[derive(Clone)]
pub struct ListenerOptions {
    /// Its name: a plain connection speaks as the directory's identity `mllp:<name>`.
    pub name: String,
    /// TLS that asks for a client certificate; none for plain MLLP on a private interface.
    pub tls: Option<ServerTlsSource>,
    /// What this gateway is; messages of the other kind are refused.
    pub environment: Environment,
    /// What is assumed of senders whose messages cannot say it.
    pub assumptions: Assumptions,
    /// The code maps of those who speak.
    pub codes: CodeSource,
    /// Connections at a time.
    pub connections_max: usize,
    /// How long a frame may take.
    pub frame_timeout: Duration,
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
    /// How long the intake may take.
    pub intake_timeout: Duration,
    /// The largest message taken, in bytes.
    pub message_bytes_max: usize,
}

impl std::fmt::Debug for ListenerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenerOptions")
            .field("name", &self.name)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl ListenerOptions {
    /// Takes the named defaults for everything that may be left to them.
    pub fn new(
        name: impl Into<String>,
        environment: Environment,
        assumptions: Assumptions,
    ) -> Self {
        Self {
            name: name.into(),
            tls: None,
            environment,
            assumptions,
            codes: Arc::new(|_| CodeMap::default()),
            connections_max: CONNECTIONS_MAX,
            frame_timeout: FRAME_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            intake_timeout: INTAKE_TIMEOUT,
            message_bytes_max: MESSAGE_BYTES_MAX,
        }
    }
}

/// The message key of ruling 5: MSH-3, 4, 9 and 10.
pub fn message_key(envelope: &Envelope) -> String {
    format!(
        "{}|{}|{}^{}|{}",
        envelope.sending_app.name,
        envelope.sending_facility.name,
        envelope.message_code,
        envelope.event,
        envelope.control_id
    )
}

/// Wraps what a message says for the intake. Who says so is for the caller to know: nothing in a message
/// proves its sender.
pub fn inbound(
    message: &Message,
    envelope: &Envelope,
    original: &[u8],
    channel: Channel,
    body: InboundBody,
) -> Inbound {
    let (app, facility) = (&envelope.sending_app.name, &envelope.sending_facility.name);
    Inbound {
        channel,
        claimed_sender: Some(format!("{app}|{facility}")),
        message_key: message_key(envelope),
        original: Payload::new(original.to_vec()),
        fingerprint: Payload::new(message.content().into_bytes()),
        media_type: MEDIA_TYPE.to_owned(),
        traceparent: None,
        environment: map::code::environment(&envelope.processing_id),
        attachments: Vec::new(),
        conversation: None,
        body,
    }
}

/// A bound listener, ready to run.
pub struct MllpListener {
    listener: TcpListener,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for MllpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MllpListener")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

struct Shared {
    options: ListenerOptions,
    intake: Arc<dyn Intake>,
    clock: Arc<dyn Clock>,
    acks_written: AtomicU32,
}

impl MllpListener {
    /// Binds the listener's address; port 0 takes a free one.
    pub async fn bind(
        address: SocketAddr,
        options: ListenerOptions,
        intake: Arc<dyn Intake>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let acks_written = AtomicU32::new(0);
        Ok(Self {
            listener,
            shared: Arc::new(Shared {
                options,
                intake,
                clock,
                acks_written,
            }),
        })
    }

    /// Returns the address that was bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the token is cancelled; then lets open connections finish the message they are at.
    pub async fn run(self, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.shared.options.connections_max));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    self.note_end(ended);
                    continue;
                }
                accepted = self.accept(&slots) => accepted,
            };
            let Some((stream, slot)) = accepted else {
                continue;
            };
            let shared = Arc::clone(&self.shared);
            let shutdown = shutdown.clone();
            connections.spawn(async move {
                shared.serve_connection(stream, shutdown).await;
                drop(slot);
            });
        }
        let drained = timeout(DRAIN_TIMEOUT, async {
            while let Some(ended) = connections.join_next().await {
                self.note_end(ended);
            }
        });
        if drained.await.is_err() {
            let left = connections.len();
            warn!(listener = %self.shared.options.name, "closed {left} connections in mid-message");
            connections.shutdown().await;
        }
    }

    /// Waits for a free slot, then for a caller: callers beyond the bound wait in the backlog.
    async fn accept(&self, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let slot = Arc::clone(slots).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, _)) => Some((stream, slot)),
            Err(error) => {
                let kind = error.kind();
                warn!(listener = %self.shared.options.name, "connection not accepted: {kind}");
                sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    fn note_end(&self, ended: Result<(), tokio::task::JoinError>) {
        if ended.is_err_and(|error| error.is_panic()) {
            warn!(listener = %self.shared.options.name, "a connection ended in a panic, unanswered");
        }
    }
}

impl Shared {
    async fn serve_connection(&self, stream: TcpStream, shutdown: CancellationToken) {
        let name = &self.options.name;
        let Some(tls) = &self.options.tls else {
            self.converse(Box::new(stream), format!("mllp:{name}"), shutdown)
                .await;
            return;
        };
        let handshake = TlsAcceptor::from(tls()).accept(stream);
        let stream = match timeout(self.options.frame_timeout, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let kind = error.kind();
                info!(listener = %name, "TLS handshake failed: {kind}");
                return;
            }
            Err(_) => {
                info!(listener = %name, "TLS handshake not ended in time");
                return;
            }
        };
        let uri = peer::identity(peer::san_uris(stream.get_ref().1.peer_certificates()));
        let Some(uri) = uri else {
            warn!(listener = %name, "client certificate has no SAN URI: connection closed");
            return;
        };
        self.converse(Box::new(stream), uri, shutdown).await;
    }

    /// Takes one message after the other from a connection until either side ends it.
    async fn converse(
        &self,
        stream: Box<dyn Stream>,
        identity: String,
        shutdown: CancellationToken,
    ) {
        let name = &self.options.name;
        let codec = MllpCodec::with_limit(self.options.message_bytes_max);
        let mut frames = Framed::new(stream, codec);
        loop {
            let next = tokio::select! {
                () = shutdown.cancelled() => return,
                next = self.next_frame(&mut frames) => next,
            };
            let frame = match next {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => {
                    warn!(listener = %name, "connection closed: {error}");
                    return;
                }
            };
            if frame.junk_before > 0 {
                warn!(listener = %name, "skipped {} bytes outside any frame", frame.junk_before);
            }
            let Some(answers) = self.answer(&frame, &identity).await else {
                warn!(listener = %name, "connection closed: a message without a readable header");
                return;
            };
            for answer in answers {
                let sent =
                    timeout(self.options.frame_timeout, frames.send(answer.as_bytes())).await;
                if !matches!(sent, Ok(Ok(()))) {
                    info!(listener = %name, "connection closed before its acknowledgement was taken");
                    return;
                }
            }
        }
    }

    /// Waits for a frame: long while none has begun, not long once one has.
    async fn next_frame(
        &self,
        frames: &mut Framed<Box<dyn Stream>, MllpCodec>,
    ) -> Result<Option<Frame>, MllpError> {
        let idle_until = Instant::now() + self.options.idle_timeout;
        let mut inside_before = false;
        loop {
            match timeout(self.options.frame_timeout, frames.next()).await {
                Ok(next) => return next.transpose(),
                Err(_) if frames.codec().is_inside_frame() => {
                    if inside_before {
                        return Err(MllpError::CutOff);
                    }
                    inside_before = true;
                }
                Err(_) if Instant::now() >= idle_until => return Ok(None),
                Err(_) => {}
            }
        }
    }

    /// Takes one message and writes its acknowledgements; none when nobody can be answered.
    async fn answer(&self, frame: &Frame, identity: &str) -> Option<Vec<String>> {
        let (envelope, taken) = match Message::parse(&frame.body, LineEndings::Cr) {
            Ok(message) => match Envelope::read(&message) {
                Ok(envelope) => {
                    let taken = self.take(&message, &envelope, frame, identity).await;
                    (envelope, taken)
                }
                Err(_) => return None,
            },
            Err(fault) => (
                salvaged_envelope(&frame.body)?,
                Err(Refusal::rejected(fault)),
            ),
        };
        if let Err(refusal) = &taken {
            info!(listener = %self.options.name, "message refused: {}", refusal.fault);
        }
        let (found, taken) = match taken {
            Ok(found) => (found, Ok(())),
            Err(refusal) => (None, Err(refusal)),
        };
        let fault = taken.as_ref().err().map(|refusal| &refusal.fault);
        let answers = replies(&envelope, &taken);
        let write = |code| match &found {
            Some(found) if code == AckCode::ApplicationAccept => {
                self.write_found(&envelope, found, identity)
            }
            _ => self.write_ack(&envelope, code, fault),
        };
        Some(answers.into_iter().map(write).collect())
    }

    /// MSH-10 and MSH-7 of an answer.
    fn stamp(&self) -> (String, jiff::Timestamp) {
        let now = self.clock.now();
        let nth = self.acks_written.fetch_add(1, Ordering::Relaxed) & 0xffff;
        let at = jiff::Timestamp::from_millisecond(now.as_ms()).unwrap_or_default();
        (format!("WA{:X}{nth:04X}", now.as_ms()), at)
    }

    fn write_ack(&self, answers: &Envelope, code: AckCode, fault: Option<&FieldFault>) -> String {
        let (control_id, at) = self.stamp();
        Ack {
            answers,
            control_id: &control_id,
            at,
            processing: map::code::processing(self.options.environment),
            code,
            fault,
        }
        .write()
    }

    fn write_found(&self, asked: &Envelope, found: &Found, identity: &str) -> String {
        let (control_id, at) = self.stamp();
        Answering {
            asked,
            reference: &found.reference,
            found: &found.answer,
            control_id: &control_id,
            at,
            processing: map::code::processing(self.options.environment),
            codes: &(self.options.codes)(identity),
        }
        .write()
    }

    /// Reads a message and hands it to the intake: durable once this returns well. What was asked for comes back.
    async fn take(
        &self,
        message: &Message,
        envelope: &Envelope,
        frame: &Frame,
        identity: &str,
    ) -> Result<Option<Found>, Refusal> {
        let environment = self.checked_environment(envelope)?;
        let codes = (self.options.codes)(identity);
        let (body, attachments) = self.read_body(message, envelope, &codes)?;
        let asked = match &body {
            InboundBody::Enquiry(reference) => Some(reference.clone()),
            _ => None,
        };
        // What is wrong with an acknowledgement is named by what it acknowledges.
        let named = match &body {
            InboundBody::Undelivered(_) => "ACK",
            _ => envelope.message_code.as_str(),
        };
        let channel = Channel::Peer(identity.to_owned());
        let mut inbound = inbound(message, envelope, &frame.body, channel, body);
        inbound.environment = Some(environment);
        inbound.attachments = attachments;
        let taking = self.hand_over(inbound, envelope);
        match timeout(self.options.intake_timeout, taking).await {
            Ok(Ok(answer)) => Ok(asked.map(|reference| Found { reference, answer })),
            Ok(Err(error)) => Err(reply::refusal(&error, named)),
            Err(_) => Err(reply::not_in_time()),
        }
    }

    /// Hands a message over. Nobody sends an acknowledgement again, and the attempt that it answers may still be under
    /// way: it is tried again while there is time.
    async fn hand_over(
        &self,
        inbound: Inbound,
        envelope: &Envelope,
    ) -> Result<IntakeAnswer, IntakeError> {
        if envelope.message_code != "ACK" {
            return self.intake.take(inbound).await;
        }
        loop {
            match self.intake.take(inbound.clone()).await {
                Err(error) if reply::is_passing(error.kind) => sleep(ACK_PAUSE).await,
                taken => return taken,
            }
        }
    }

    fn checked_environment(&self, envelope: &Envelope) -> Result<Environment, Refusal> {
        let refuse = |rule| {
            let code = ErrorCode::UnsupportedProcessingId;
            Refusal::rejected(FieldFault::field("MSH", 11, rule, code))
        };
        match map::code::environment(&envelope.processing_id) {
            Some(environment) if environment == self.options.environment => Ok(environment),
            Some(_) => Err(refuse(
                "is of the other kind: this gateway is test or live, not both",
            )),
            None => Err(refuse("is none of P, T and D")),
        }
    }

    fn read_body(
        &self,
        message: &Message,
        envelope: &Envelope,
        codes: &CodeMap,
    ) -> Result<(InboundBody, Vec<InboundDocument>), Refusal> {
        if let Some(answer) = map::answer(message, envelope, codes) {
            return answer.map(|body| (body, Vec::new())).map_err(Refusal::of);
        }
        match envelope.message_code.as_str() {
            "REF" => RefMessage::read(message).and_then(|read| {
                let body = map::inward::read(&read, &self.options.assumptions, codes)?;
                Ok((body, map::documents::inward(&read)))
            }),
            _ => {
                let rule = "is none of REF, RRI, SIU and ACK";
                Err(FieldFault::field(
                    "MSH",
                    9,
                    rule,
                    ErrorCode::UnsupportedMessageType,
                ))
            }
        }
        .map_err(Refusal::of)
    }
}

/// What a status request found.
struct Found {
    reference: SenderReference,
    answer: IntakeAnswer,
}

/// Reads the header of a message whose other segments cannot be read, so that it can be answered.
fn salvaged_envelope(body: &[u8]) -> Option<Envelope> {
    let header = body.split(|byte| matches!(*byte, b'\r' | b'\n')).next()?;
    Envelope::read(&Message::parse(header, LineEndings::Cr).ok()?).ok()
}

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;
