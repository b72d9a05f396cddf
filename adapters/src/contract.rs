//! The adapter spec (`adapters/README.md`) as checks that every adapter passes against a far side that does as
//! it is told. [`broken`] runs them all and names those that fail.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use waymark_core::delivery::{Evidence, Kind, Outcome, ParkReason, Repeat};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::id::{DeliveryId, WireId};
use waymark_core::personal::Personal;
use waymark_core::port::{Adapter, Deadline, Reconciliation, RenderError, Rendered, Source};

use crate::limits::BODY_BYTES_MAX;

pub mod folder;
pub mod sample;

/// What a far side does with the next message it gets, and with every one after it until told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Takes it, and the application says so.
    Take,
    /// Says that it has this id already.
    Duplicate,
    /// Asks for it again later, with a hint of [`HINT`] where the protocol has hints.
    Later,
    /// Refuses it for good, in words that repeat its content.
    Refuse,
    /// Reads it whole and never answers.
    Silent,
}

/// When a far side says that it has a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// As the end of the attempt.
    AtOnce,
    /// In its own time, by a way of its own: an attempt ends with what was written, and awaits better.
    Later,
    /// In its own time, from behind a hub that says at once whether the hub has it. The hub does not know what comes
    /// twice, so the adapter asks before it repeats, and writes nothing that the hub has.
    Relayed,
}

/// The hint of [`Script::Later`].
pub const HINT: Duration = Duration::from_secs(7);

/// One message as a far side got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The id that it carried.
    pub wire_id: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A far side that does as it is told.
#[async_trait]
pub trait FarSide: Send + Sync {
    /// The endpoint that leads to it.
    fn endpoint(&self) -> Endpoint;
    /// The same place under settings that expect another peer; `None` where the protocol cannot tell peers apart.
    fn impostor(&self) -> Option<Endpoint>;
    /// An endpoint where nobody listens.
    fn unreachable(&self) -> Endpoint;
    /// Endpoints with one wrong setting each, and the setting's path.
    fn wrong_settings(&self) -> Vec<(Endpoint, String)>;
    /// Whether the protocol carries the far side's hint of when to try again.
    fn hints(&self) -> bool;
    /// When it says that it has a message.
    fn answers(&self) -> Answers {
        Answers::AtOnce
    }
    /// The kinds of message that it takes, the one that checks use first.
    fn kinds(&self) -> &'static [Kind] {
        &[
            Kind::New,
            Kind::Amend,
            Kind::Cancel,
            Kind::Withdraw,
            Kind::Status,
        ]
    }
    /// Tells it what to do from now on.
    fn play(&self, script: Script);
    /// What it has got so far.
    fn received(&self) -> Vec<Received>;
}

/// A rule of the spec that an adapter broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The rule's name in the spec.
    pub rule: &'static str,
    /// What was seen.
    pub seen: String,
}

/// The longest that a check waits for an answer that comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// The deadline of an attempt that gets no answer.
const SHORT: Duration = Duration::from_millis(700);
/// What an adapter may take beyond its deadline.
const GRACE: Duration = Duration::from_secs(1);

type Seen = Result<(), String>;

fn must(holds: bool, seen: impl FnOnce() -> String) -> Seen {
    if holds { Ok(()) } else { Err(seen()) }
}

/// Runs every check against an adapter and its far side, and answers those that fail.
pub async fn broken(adapter: &dyn Adapter, far: &dyn FarSide) -> Vec<Broken> {
    let mut all = rendering(adapter, &far.endpoint());
    let checks = [
        ("validate names the wrong setting", validates(adapter, far)),
        (
            "a delivery arrives with its evidence",
            arrives(adapter, far).await,
        ),
        (
            "every attempt carries the same id and bytes",
            repeats(adapter, far).await,
        ),
        (
            "a message bound to another is not written",
            refuses_others(adapter, far).await,
        ),
        (
            "a peer that is not the bound one gets nothing",
            refuses_impostors(adapter, far).await,
        ),
        (
            "nobody there is a retry",
            retries_unreachable(adapter, far).await,
        ),
        (
            "no answer is unknown, within the deadline",
            waits_no_longer(adapter, far).await,
        ),
        (
            "an id that is known is a duplicate",
            sees_duplicates(adapter, far).await,
        ),
        (
            "later is a retry, for good is none",
            tells_later_from_never(adapter, far).await,
        ),
        ("nothing shows content", shows_nothing(adapter, far).await),
        ("a probe has no effect", probes(adapter, far).await),
        (
            "a probe of wrong settings fails",
            probes_no_wrong_settings(adapter, far).await,
        ),
    ];
    all.extend(checks.into_iter().filter_map(|(rule, seen)| {
        Some(Broken {
            rule,
            seen: seen.err()?,
        })
    }));
    far.play(Script::Take);
    all
}

/// Runs the checks that need no far side.
pub fn rendering(adapter: &dyn Adapter, endpoint: &Endpoint) -> Vec<Broken> {
    let checks = [
        (
            "rendering is a function of the message",
            renders_alike(adapter, endpoint),
        ),
        (
            "safety-critical content is carried or refused",
            carries_safety(adapter, endpoint),
        ),
        (
            "an unusable message is refused, not cut",
            refuses_unusable(adapter, endpoint),
        ),
    ];
    let failed = checks.into_iter().filter_map(|(rule, seen)| {
        Some(Broken {
            rule,
            seen: seen.err()?,
        })
    });
    failed.collect()
}

fn render(adapter: &dyn Adapter, source: &Source, endpoint: &Endpoint) -> Result<Rendered, String> {
    adapter
        .render(source, endpoint)
        .map_err(|error| format!("not rendered: {error}"))
}

fn renders_alike(adapter: &dyn Adapter, endpoint: &Endpoint) -> Seen {
    for kind in Kind::ALL {
        let source = sample::source(*kind);
        let (first, second) = (
            adapter.render(&source, endpoint),
            adapter.render(&source, endpoint),
        );
        must(first == second, || {
            format!("{kind} rendered twice gives different bytes")
        })?;
    }
    Ok(())
}

fn carries_safety(adapter: &dyn Adapter, endpoint: &Endpoint) -> Seen {
    for kind in [Kind::New, Kind::Amend] {
        let rendered = match adapter.render(&sample::source(kind), endpoint) {
            Ok(rendered) => rendered,
            Err(RenderError::CannotCarry(_)) => continue,
            Err(error) => return Err(error.to_string()),
        };
        let text = String::from_utf8_lossy(rendered.bytes.expose()).into_owned();
        for word in sample::SAFETY_WORDS {
            must(text.contains(word), || format!("{kind} lost `{word}`"))?;
        }
    }
    Ok(())
}

fn refuses_unusable(adapter: &dyn Adapter, endpoint: &Endpoint) -> Seen {
    let mut empty = sample::source(Kind::New);
    empty.content = None;
    must(adapter.render(&empty, endpoint).is_err(), || {
        "a new referral without content".to_owned()
    })?;
    let mut silent = sample::source(Kind::Status);
    silent.status = None;
    must(adapter.render(&silent, endpoint).is_err(), || {
        "a status without a status".to_owned()
    })?;
    for kind in Kind::ALL {
        let mut other = sample::source(*kind);
        other.environment = Environment::Live;
        must(adapter.render(&other, endpoint).is_err(), || {
            format!("a live {kind} in a test gateway")
        })?;
    }
    let mut long = sample::source(Kind::New);
    if let Some(content) = &mut long.content {
        content.narrative = Some(Personal::new("x".repeat(BODY_BYTES_MAX)));
    }
    must(adapter.render(&long, endpoint).is_err(), || {
        "a message longer than any may be".to_owned()
    })
}

fn validates(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    let faults = adapter.validate(&far.endpoint());
    must(faults.is_empty(), || {
        format!("good settings refused: {faults:?}")
    })?;
    for (endpoint, path) in far.wrong_settings() {
        let faults = adapter.validate(&endpoint);
        must(faults.iter().any(|f| f.field == path), || {
            format!("{path} not named: {faults:?}")
        })?;
    }
    Ok(())
}

/// One attempt at an endpoint, and how it ended.
async fn attempt(
    adapter: &dyn Adapter,
    source: &Source,
    endpoint: &Endpoint,
    within: Duration,
) -> Result<Outcome, String> {
    let rendered = render(adapter, source, endpoint)?;
    let message = sample::outbound(source, &rendered, endpoint, 1);
    Ok(adapter.deliver(&message, Deadline { within }).await)
}

async fn arrives(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    far.play(Script::Take);
    for kind in far.kinds() {
        let before = far.received().len();
        let outcome = attempt(adapter, &sample::source(*kind), &far.endpoint(), PATIENCE).await?;
        let acknowledged = match far.answers() {
            Answers::AtOnce => matches!(&outcome, Outcome::Delivered { grade, .. }
                if (Evidence::ApplicationAck..=Evidence::SignedReceipt).contains(grade)),
            Answers::Later | Answers::Relayed => awaits(&outcome),
        };
        must(acknowledged, || format!("{kind}: {outcome:?}"))?;
        must(far.received().len() == before + 1, || {
            format!("{kind} did not arrive once")
        })?;
    }
    Ok(())
}

/// Whether an attempt claims no more than that it wrote, and says which better evidence will come.
fn awaits(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Delivered { grade: Evidence::Sent | Evidence::TransportAck, awaiting: Some(better), .. }
        if *better > Evidence::Sent)
}

async fn repeats(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    far.play(Script::Take);
    let (mut source, endpoint) = (sample::source(first(far)), far.endpoint());
    // An id of its own: nothing that was delivered before has it.
    source.delivery = DeliveryId::from_bytes([6; 16]);
    source.wire_id = WireId::of(source.delivery);
    let rendered = render(adapter, &source, &endpoint)?;
    let before = far.received().len();
    for number in 1..=3 {
        let message = sample::outbound(&source, &rendered, &endpoint, number);
        let outcome = adapter
            .deliver(&message, Deadline { within: PATIENCE })
            .await;
        must(matches!(outcome, Outcome::Delivered { .. }), || {
            format!("{outcome:?}")
        })?;
    }
    let got = far.received();
    let new = got.get(before..).unwrap_or_default();
    // Where the message stands until it is taken, an attempt that finds it there writes it no second time.
    let arrived = match far.answers() {
        Answers::AtOnce => new.len() == 3,
        Answers::Later => (1..=3).contains(&new.len()),
        Answers::Relayed => new.len() == 1,
    };
    must(arrived, || format!("{} of 3 attempts arrived", new.len()))?;
    let same = new
        .iter()
        .all(|r| r.wire_id == source.wire_id.as_str() && r.bytes == rendered.bytes.expose());
    must(same, || {
        "an attempt carried another id or other bytes".to_owned()
    })
}

/// Checks that an outcome parks for the wrong recipient, and that nothing arrived.
fn kept_from(outcome: &Outcome, far: &dyn FarSide, before: usize) -> Seen {
    let parked = matches!(
        outcome,
        Outcome::Park {
            reason: ParkReason::WrongRecipient,
            ..
        }
    );
    must(parked, || format!("{outcome:?}"))?;
    must(far.received().len() == before, || {
        "bytes were written".to_owned()
    })
}

async fn refuses_others(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    far.play(Script::Take);
    let before = far.received().len();
    let mut source = sample::source(first(far));
    source.recipient = "ZZZ99".parse().map_err(|_| "an agency id".to_owned())?;
    let outcome = attempt(adapter, &source, &far.endpoint(), PATIENCE).await?;
    kept_from(&outcome, far, before)
}

async fn refuses_impostors(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    let Some(endpoint) = far.impostor() else {
        return Ok(());
    };
    far.play(Script::Take);
    let before = far.received().len();
    let outcome = attempt(adapter, &sample::source(first(far)), &endpoint, PATIENCE).await?;
    kept_from(&outcome, far, before)
}

async fn retries_unreachable(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    let outcome = attempt(
        adapter,
        &sample::source(first(far)),
        &far.unreachable(),
        PATIENCE,
    )
    .await?;
    must(matches!(outcome, Outcome::Retry { .. }), || {
        format!("{outcome:?}")
    })
}

async fn waits_no_longer(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    far.play(Script::Silent);
    let before = far.received().len();
    let started = Instant::now();
    let outcome = attempt(adapter, &sample::source(first(far)), &far.endpoint(), SHORT).await?;
    let took = started.elapsed();
    let unknown = matches!(outcome, Outcome::Unknown { .. });
    let honest = match far.answers() {
        Answers::AtOnce | Answers::Relayed => unknown,
        // Whoever reads an answer at all may miss it.
        Answers::Later => awaits(&outcome) || unknown,
    };
    must(honest, || format!("{outcome:?}"))?;
    must(far.received().len() == before + 1, || {
        "it did not arrive".to_owned()
    })?;
    must(took < SHORT + GRACE, || {
        format!("took {took:?} of {SHORT:?}")
    })
}

async fn sees_duplicates(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    if adapter.repeat(&far.endpoint()) == Repeat::MustReconcile {
        return asks_first(adapter, far).await;
    }
    far.play(Script::Duplicate);
    let outcome = attempt(
        adapter,
        &sample::source(first(far)),
        &far.endpoint(),
        PATIENCE,
    )
    .await?;
    must(matches!(outcome, Outcome::Duplicate { .. }), || {
        format!("{outcome:?}")
    })
}

/// Where the far side takes the same message twice: what arrived is found by asking, and what did not is not.
async fn asks_first(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    let deadline = Deadline { within: PATIENCE };
    let (mut source, endpoint) = (sample::source(first(far)), far.endpoint());
    source.wire_id = WireId::of(DeliveryId::from_bytes([0x5a; 16]));
    let rendered = render(adapter, &source, &endpoint)?;
    let message = sample::outbound(&source, &rendered, &endpoint, 2);
    far.play(Script::Take);
    let before = far.received().len();
    let none = adapter.reconcile(&message, deadline).await;
    must(none == Reconciliation::NotReceived, || format!("{none:?}"))?;
    far.play(Script::Silent);
    let lost = adapter.deliver(&message, Deadline { within: SHORT }).await;
    must(matches!(lost, Outcome::Unknown { .. }), || {
        format!("{lost:?}")
    })?;
    far.play(Script::Take);
    let found = adapter.reconcile(&message, deadline).await;
    let received = match &found {
        Reconciliation::Settled(outcome) => {
            awaits(outcome) || matches!(outcome, Outcome::Delivered { .. })
        }
        _ => false,
    };
    must(received, || format!("{found:?}"))?;
    must(far.received().len() == before + 1, || {
        "asking sent it again".to_owned()
    })
}

async fn tells_later_from_never(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    far.play(Script::Later);
    let later = attempt(
        adapter,
        &sample::source(first(far)),
        &far.endpoint(),
        PATIENCE,
    )
    .await?;
    match &later {
        Outcome::Retry { after, .. } => {
            must(!far.hints() || *after == Some(HINT), || {
                format!("the hint became {after:?}")
            })?;
        }
        other => return Err(format!("later became {other:?}")),
    }
    far.play(Script::Refuse);
    let never = attempt(
        adapter,
        &sample::source(first(far)),
        &far.endpoint(),
        PATIENCE,
    )
    .await?;
    let settled = matches!(
        never,
        Outcome::Reject { .. }
            | Outcome::Park { .. }
            | Outcome::ParkWritten { .. }
            | Outcome::SoftReject { .. }
    );
    must(settled, || format!("for good became {never:?}"))
}

async fn shows_nothing(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    let (source, endpoint) = (sample::source(first(far)), far.endpoint());
    let rendered = render(adapter, &source, &endpoint)?;
    let mut shown = format!("{source:?}{rendered:?}");
    for script in [
        Script::Take,
        Script::Refuse,
        Script::Duplicate,
        Script::Later,
    ] {
        far.play(script);
        let message = sample::outbound(&source, &rendered, &endpoint, 1);
        let outcome = adapter
            .deliver(&message, Deadline { within: PATIENCE })
            .await;
        shown = format!("{shown}{message:?}{outcome:?}");
    }
    let leaked = sample::PERSONAL_WORDS
        .into_iter()
        .find(|word| shown.contains(word));
    must(leaked.is_none(), || {
        format!("`{}` is shown", leaked.unwrap_or_default())
    })
}

async fn probes(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    const STAGES: [&str; 5] = ["name", "tcp", "tls", "identity", "application"];
    let before = far.received().len();
    let probe = adapter
        .probe(&far.endpoint(), Deadline { within: PATIENCE })
        .await;
    let names: Vec<&str> = probe.stages.iter().map(|s| s.stage).collect();
    must(names == STAGES, || format!("stages {names:?}"))?;
    must(probe.stages.iter().all(|s| s.passed != Some(false)), || {
        format!("{probe:?}")
    })?;
    must(far.received().len() == before, || {
        "a probe left a message".to_owned()
    })?;
    let nobody = adapter
        .probe(&far.unreachable(), Deadline { within: PATIENCE })
        .await;
    let failed: Vec<&str> = nobody
        .stages
        .iter()
        .filter(|s| s.passed == Some(false))
        .map(|s| s.stage)
        .collect();
    must(failed.len() == 1, || {
        format!("nobody there fails at {failed:?}")
    })
}

async fn probes_no_wrong_settings(adapter: &dyn Adapter, far: &dyn FarSide) -> Seen {
    for (endpoint, path) in far.wrong_settings() {
        let probe = adapter
            .probe(&endpoint, Deadline { within: PATIENCE })
            .await;
        must(probe.stages.iter().any(|s| s.passed == Some(false)), || {
            format!("{path}: {probe:?}")
        })?;
    }
    Ok(())
}

/// The kind of message that most checks use.
fn first(far: &dyn FarSide) -> Kind {
    far.kinds().first().copied().unwrap_or(Kind::New)
}

/// The wire id of the sample messages, for far sides that answer with it.
pub fn wire_id() -> WireId {
    sample::source(Kind::New).wire_id
}

#[cfg(test)]
mod tests;
