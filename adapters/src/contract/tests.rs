//! The suite against an adapter that keeps every rule, and against one for each rule that breaks it; and the
//! suite against HL7 v2 over MLLP inside TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use waymark_core::delivery::Why;
use waymark_core::directory::AdapterKind;
use waymark_core::error::{Fault, Violation};
use waymark_core::personal::Payload;
use waymark_core::port::{Identification, Outbound, Probe, ProbeStage};

use super::*;
use crate::far_side::{self, AGENCY, Notes, OTHER_SYSTEM, Pki, acceptor};

/// Which rule the toy adapter breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaks {
    Nothing,
    Rendering,
    Safety,
    Missing,
    Environment,
    Length,
    Validation,
    Grade,
    Repeats,
    Recipient,
    Peer,
    Unreachable,
    Deadline,
    Silence,
    Duplicates,
    Hint,
    Refusal,
    Privacy,
    Probe,
    ProbeOfNothing,
}

/// A protocol that is a push onto a list.
struct Toy {
    breaks: Breaks,
    notes: Arc<Notes>,
    rendered: std::sync::atomic::AtomicU64,
}

impl Toy {
    fn new(breaks: Breaks) -> Self {
        Self {
            breaks,
            notes: Notes::new(),
            rendered: 0.into(),
        }
    }

    fn breaks(&self, rule: Breaks) -> bool {
        self.breaks == rule
    }

    fn setting<'a>(endpoint: &'a Endpoint, key: &str) -> &'a str {
        endpoint
            .settings
            .get(key)
            .and_then(toml::Value::as_str)
            .unwrap_or_default()
    }

    fn take(&self, message: &Outbound<'_>) {
        let id = if self.breaks(Breaks::Repeats) {
            format!("{}{}", message.wire_id, message.attempt)
        } else {
            message.wire_id.to_string()
        };
        self.notes.note(
            &id,
            message.rendered.bytes.expose(),
            std::collections::BTreeMap::new(),
        );
    }

    async fn answer(&self, message: &Outbound<'_>, deadline: Deadline) -> Outcome {
        let why = Why::new("toy", "said so");
        match self.notes.script() {
            Script::Take => Outcome::Delivered {
                grade: if self.breaks(Breaks::Grade) {
                    Evidence::HumanAcceptance
                } else {
                    Evidence::ApplicationAck
                },
                awaiting: None,
                receiver_reference: None,
                receipt: None,
            },
            Script::Duplicate if self.breaks(Breaks::Duplicates) => {
                Outcome::Retry { after: None, why }
            }
            Script::Duplicate => Outcome::Duplicate { why },
            Script::Later => Outcome::Retry {
                after: (!self.breaks(Breaks::Hint)).then_some(HINT),
                why,
            },
            Script::Refuse if self.breaks(Breaks::Refusal) => Outcome::Retry { after: None, why },
            Script::Refuse if self.breaks(Breaks::Privacy) => {
                let body = String::from_utf8_lossy(message.rendered.bytes.expose());
                Outcome::Reject {
                    why: Why::new("toy", body),
                    fault: Fault::Send,
                }
            }
            Script::Refuse => Outcome::Reject {
                why,
                fault: Fault::Send,
            },
            Script::Silent => {
                let over = if self.breaks(Breaks::Deadline) {
                    GRACE * 2
                } else {
                    Duration::ZERO
                };
                tokio::time::sleep(deadline.within + over).await;
                if self.breaks(Breaks::Silence) {
                    Outcome::Retry { after: None, why }
                } else {
                    Outcome::Unknown { why }
                }
            }
        }
    }
}

#[async_trait]
impl Adapter for Toy {
    fn repeat(&self, _endpoint: &Endpoint) -> Repeat {
        Repeat::DedupesById
    }
    fn identification(&self, _endpoint: &Endpoint) -> Identification {
        Identification::Certificate
    }
    fn validate(&self, endpoint: &Endpoint) -> Vec<Violation> {
        let good = !Self::setting(endpoint, "at").is_empty() || self.breaks(Breaks::Validation);
        if good {
            Vec::new()
        } else {
            vec![Violation::new("settings.at", "is required")]
        }
    }
    fn render(&self, source: &Source, _endpoint: &Endpoint) -> Result<Rendered, RenderError> {
        let mut content = source.content.clone();
        if let (Some(content), true) = (&mut content, self.breaks(Breaks::Safety)) {
            content.reasonable_adjustments.clear();
        }
        let missing = match source.kind {
            Kind::Status => source.status.is_none(),
            _ => content.is_none(),
        };
        if missing && !self.breaks(Breaks::Missing) {
            return Err(RenderError::CannotCarry(Violation::new(
                "content",
                "is missing",
            )));
        }
        let refuse = |what| Err(RenderError::CannotCarry(Violation::new("message", what)));
        if source.environment != Environment::Test && !self.breaks(Breaks::Environment) {
            return refuse("is of the other environment");
        }
        let mut bytes = serde_json::to_vec(&(&content, &source.status)).unwrap();
        if bytes.len() > BODY_BYTES_MAX && !self.breaks(Breaks::Length) {
            return refuse("is too long");
        }
        if self.breaks(Breaks::Rendering) {
            let number = self
                .rendered
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            bytes.extend_from_slice(number.to_string().as_bytes());
        }
        Ok(Rendered {
            media_type: "application/json".to_owned(),
            bytes: Payload::new(bytes),
        })
    }
    async fn deliver(&self, message: &Outbound<'_>, deadline: Deadline) -> Outcome {
        let park = || Outcome::Park {
            reason: ParkReason::WrongRecipient,
            why: Why::new("toy", "somebody else"),
        };
        let bound = message.endpoint.agency == *message.recipient;
        if !bound && !self.breaks(Breaks::Recipient) {
            return park();
        }
        if Self::setting(message.endpoint, "at") == "nowhere" {
            let why = Why::new("toy", "nobody there");
            return if self.breaks(Breaks::Unreachable) {
                Outcome::Unknown { why }
            } else {
                Outcome::Retry { after: None, why }
            };
        }
        if Self::setting(message.endpoint, "peer") == OTHER_SYSTEM && !self.breaks(Breaks::Peer) {
            return park();
        }
        self.take(message);
        self.answer(message, deadline).await
    }
    async fn probe(&self, endpoint: &Endpoint, _deadline: Deadline) -> Probe {
        if self.breaks(Breaks::Probe) {
            self.notes
                .note("probe", b"", std::collections::BTreeMap::new());
        }
        let there = match Self::setting(endpoint, "at") {
            "" => self.breaks(Breaks::ProbeOfNothing),
            at => at != "nowhere",
        };
        let stages = ["name", "tcp", "tls", "identity", "application"].map(|stage| ProbeStage {
            stage,
            passed: (stage == "tcp").then_some(there),
            detail: String::new(),
        });
        Probe {
            stages: stages.into(),
        }
    }
}

#[async_trait]
impl FarSide for Toy {
    fn endpoint(&self) -> Endpoint {
        far_side::endpoint(AdapterKind::Webhook, "at = \"here\"")
    }
    fn impostor(&self) -> Option<Endpoint> {
        Some(far_side::with(&self.endpoint(), "peer", Some(OTHER_SYSTEM.into())).0)
    }
    fn unreachable(&self) -> Endpoint {
        far_side::endpoint(AdapterKind::Webhook, "at = \"nowhere\"")
    }
    fn wrong_settings(&self) -> Vec<(Endpoint, String)> {
        vec![far_side::with(&self.endpoint(), "at", None)]
    }
    fn hints(&self) -> bool {
        true
    }
    fn play(&self, script: Script) {
        self.notes.play(script);
    }
    fn received(&self) -> Vec<Received> {
        self.notes.received()
    }
}

async fn rules_broken_by(breaks: Breaks) -> Vec<&'static str> {
    let toy = Toy::new(breaks);
    broken(&toy, &toy)
        .await
        .into_iter()
        .map(|b| b.rule)
        .collect()
}

#[tokio::test]
async fn an_adapter_that_keeps_every_rule_passes() {
    assert_eq!(rules_broken_by(Breaks::Nothing).await, Vec::<&str>::new());
}

#[tokio::test]
async fn each_broken_rule_is_found_by_its_own_check() {
    let rules = [
        (Breaks::Rendering, "rendering is a function of the message"),
        (
            Breaks::Safety,
            "safety-critical content is carried or refused",
        ),
        (
            Breaks::Environment,
            "an unusable message is refused, not cut",
        ),
        (Breaks::Length, "an unusable message is refused, not cut"),
        (Breaks::Missing, "an unusable message is refused, not cut"),
        (Breaks::Validation, "validate names the wrong setting"),
        (Breaks::Grade, "a delivery arrives with its evidence"),
        (
            Breaks::Repeats,
            "every attempt carries the same id and bytes",
        ),
        (
            Breaks::Recipient,
            "a message bound to another is not written",
        ),
        (
            Breaks::Peer,
            "a peer that is not the bound one gets nothing",
        ),
        (Breaks::Unreachable, "nobody there is a retry"),
        (
            Breaks::Deadline,
            "no answer is unknown, within the deadline",
        ),
        (Breaks::Silence, "no answer is unknown, within the deadline"),
        (Breaks::Duplicates, "an id that is known is a duplicate"),
        (Breaks::Hint, "later is a retry, for good is none"),
        (Breaks::Refusal, "later is a retry, for good is none"),
        (Breaks::Privacy, "nothing shows content"),
        (Breaks::Probe, "a probe has no effect"),
        (Breaks::ProbeOfNothing, "a probe of wrong settings fails"),
    ];
    // Together, because each waits for a deadline to pass.
    let found = futures::future::join_all(rules.map(|(breaks, _)| rules_broken_by(breaks))).await;
    for ((breaks, rule), found) in rules.into_iter().zip(found) {
        assert_eq!(found, [rule], "{breaks:?}");
    }
}

/// A receiver of HL7 v2 inside TLS that does as it is told.
struct Mllp {
    notes: Arc<Notes>,
    address: SocketAddr,
    nobody: SocketAddr,
    _server: JoinSet<()>,
}

impl Mllp {
    async fn start(pki: &Pki) -> Self {
        let (listener, address) = far_side::listener().await;
        let acceptor = acceptor(pki);
        let notes = Notes::new();
        let shared = Arc::clone(&notes);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, notes) = (acceptor.clone(), Arc::clone(&shared));
                conversations.spawn(async move {
                    // Who gives up during the handshake has nothing to say.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        converse(stream, &notes).await;
                    }
                });
            }
        });
        let nobody = far_side::nobody().await;
        Self {
            notes,
            address,
            nobody,
            _server: server,
        }
    }

    fn at(address: SocketAddr) -> Endpoint {
        let settings = format!(
            "host = \"localhost\"\nport = {}\ntransport = \"tls\"\npeer_uri = \"{AGENCY}\"\n\
             version = \"2.5\"\nack_mode = \"original\"\nsending_app = \"WAYMARK\"\n\
             sending_facility = \"WM01\"\nreceiving_app = \"PAEDPAS\"\nreceiving_facility = \"R1L\"",
            address.port()
        );
        far_side::endpoint(AdapterKind::Hl7v2, &settings)
    }
}

/// One frame, and the answer to it.
async fn converse(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, notes: &Notes) {
    let mut frame = Vec::new();
    while !frame.ends_with(b"\x1c\r") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        frame.push(byte);
    }
    let text = String::from_utf8_lossy(&frame).into_owned();
    let id = text.split('|').nth(9).unwrap_or_default();
    notes.note(id, &frame, std::collections::BTreeMap::new());
    let (code, error) = match notes.script() {
        Script::Take => ("AA", String::new()),
        Script::Duplicate => ("AE", "ERR|||205|E\r".to_owned()),
        Script::Later => ("AE", "ERR|||207|E\r".to_owned()),
        Script::Refuse => (
            "AR",
            format!(
                "ERR||PID^1^5|101|E||||{}\r",
                sample::PERSONAL_WORDS.join(" ")
            ),
        ),
        Script::Silent => std::future::pending().await,
    };
    let answer = format!(
        "\x0bMSH|^~\\&|PAEDPAS|R1L|WAYMARK|WM01|20260302||ACK|9|T|2.5\rMSA|{code}|{id}\r{error}\x1c\r"
    );
    // The sender may have gone away by itself.
    drop(stream.write_all(answer.as_bytes()).await);
    drop(stream.flush().await);
    drop(stream.read_u8().await);
}

#[async_trait]
impl FarSide for Mllp {
    fn endpoint(&self) -> Endpoint {
        Self::at(self.address)
    }
    fn impostor(&self) -> Option<Endpoint> {
        Some(far_side::with(&self.endpoint(), "peer_uri", Some(OTHER_SYSTEM.into())).0)
    }
    fn unreachable(&self) -> Endpoint {
        Self::at(self.nobody)
    }
    fn wrong_settings(&self) -> Vec<(Endpoint, String)> {
        let good = self.endpoint();
        vec![
            far_side::with(&good, "port", Some(0.into())),
            far_side::with(&good, "sending_app", Some(" WAYMARK".into())),
            far_side::with(&good, "ack_timeout_ms", Some(0.into())),
            far_side::with(&good, "tls_profile", Some("none".into())),
        ]
    }
    fn hints(&self) -> bool {
        false
    }
    fn play(&self, script: Script) {
        self.notes.play(script);
    }
    fn received(&self) -> Vec<Received> {
        self.notes.received()
    }
}

#[tokio::test]
async fn hl7v2_over_mllp_keeps_the_contract() {
    let pki = Pki::new();
    let far = Mllp::start(&pki).await;
    let adapter = pki.adapters().adapter(AdapterKind::Hl7v2);
    assert_eq!(broken(&*adapter, &far).await, []);
}
