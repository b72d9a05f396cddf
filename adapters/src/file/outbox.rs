//! Writing one message into an agency's outbox: its files first and its manifest last, so that a manifest means that
//! everything is there.

use tokio::time::{Instant, timeout_at};
use waymark_core::delivery::{Evidence, Outcome, ParkReason, Why};
use waymark_core::error::Fault;

use super::name::Name;
use super::package::{MANIFEST_SUFFIX, Package};
use super::place::{Place, PlaceError, Sub};
use crate::receipt::refusal_code;

/// What a receipt's name ends with; the shorter form is an empty file.
pub(super) const RECEIPT_SUFFIXES: [&str; 2] = [".receipt.json", ".receipt"];
/// What the name of a refusal ends with.
pub(super) const REJECTED_SUFFIX: &str = ".rejected.json";
/// The most bytes of a receipt or refusal.
pub(super) const NOTE_BYTES_MAX: u64 = 64 * 1024;
/// Files of one message, and what it may leave while it is written, that count as one in a full outbox.
const FILES_A_MESSAGE: usize = 4;
/// What an agency's refusal says that an operator may see: its code. Its words stay in its file.
pub(super) fn refusal(bytes: &[u8]) -> Why {
    let code = refusal_code(bytes);
    let said = code.as_deref().unwrap_or("no readable code");
    let text = format!(
        "the agency would not take it ({said}): its reason stands in its rejected folder or in done"
    );
    Why::new("file.rejected", text)
}

/// How an attempt ended that a step of failed, before anything could count as sent.
pub(super) fn not_sent(error: &PlaceError) -> Outcome {
    let retry = |code: &str| Outcome::Retry {
        after: None,
        why: Why::new(code, error.to_string()),
    };
    match error {
        PlaceError::Connect(error) => error.outcome("file"),
        PlaceError::WrongHost => Outcome::Park {
            reason: ParkReason::WrongRecipient,
            why: Why::new("file.wrong_host", error.to_string()),
        },
        PlaceError::RefusedUs => retry("file.refused_us"),
        PlaceError::Key(_) => retry("file.secret"),
        PlaceError::NoFolder => retry("file.no_folder"),
        PlaceError::Denied => retry("file.denied"),
        PlaceError::TooLarge | PlaceError::Exists | PlaceError::Io(_) => retry("file.folder"),
        PlaceError::Session => retry("file.session"),
    }
}

fn collision() -> Outcome {
    Outcome::Park {
        reason: ParkReason::IdCollision,
        why: Why::new(
            "file.collision",
            "the outbox has a file of this message's name with other content",
        ),
    }
}

/// Whether a file stands in the outbox.
enum Standing {
    /// With these bytes.
    Same,
    /// With others.
    Other,
    /// Not at all.
    Absent,
}

async fn standing(place: &Place, name: &Name, bytes: &[u8]) -> Result<Standing, PlaceError> {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    match place.read(Sub::Outbox, name, size).await {
        Ok(Some(found)) if found == bytes => Ok(Standing::Same),
        Ok(Some(_)) | Err(PlaceError::TooLarge) => Ok(Standing::Other),
        Ok(None) => Ok(Standing::Absent),
        Err(error) => Err(error),
    }
}

/// What stands in the way of writing a message, or what the agency has said of it already.
async fn said_already(place: &Place, id: &Name) -> Result<Option<Outcome>, PlaceError> {
    let named = |suffix: &str| Name::parse(&format!("{id}{suffix}")).ok();
    if let Some(name) = named(REJECTED_SUFFIX)
        && let Some(bytes) = place.read(Sub::Rejected, &name, NOTE_BYTES_MAX).await?
    {
        let why = refusal(&bytes);
        return Ok(Some(Outcome::Reject {
            why,
            fault: Fault::Send,
        }));
    }
    for name in RECEIPT_SUFFIXES.into_iter().filter_map(named) {
        if place
            .read(Sub::Receipts, &name, NOTE_BYTES_MAX)
            .await?
            .is_some()
        {
            let why = Why::new(
                "file.receipt",
                "the agency's receipt for this id is there already",
            );
            return Ok(Some(Outcome::Duplicate { why }));
        }
    }
    Ok(None)
}

async fn is_full(place: &Place, id: &Name, waiting_max: usize) -> Result<bool, PlaceError> {
    let listing = place
        .list(Sub::Outbox, waiting_max.saturating_mul(FILES_A_MESSAGE))
        .await?;
    let others = listing
        .files
        .iter()
        .filter_map(|file| file.name.without(MANIFEST_SUFFIX));
    let waiting = others.filter(|other| *other != id.as_str()).count();
    Ok(listing.more || waiting >= waiting_max)
}

/// Writes everything but the manifest; an outcome ends the attempt before anything counts as sent.
async fn prepare(
    place: &Place,
    package: &Package,
    waiting_max: usize,
) -> Result<Option<Outcome>, PlaceError> {
    let id = &package.manifest.id;
    if let Some(said) = said_already(place, id).await? {
        return Ok(Some(said));
    }
    if is_full(place, id, waiting_max).await? {
        let text =
            format!("{waiting_max} messages wait in the outbox: is the agency collecting them?");
        let why = Why::new("file.full", text);
        return Ok(Some(Outcome::Retry { after: None, why }));
    }
    for (file, bytes) in package.manifest.files.iter().zip(&package.files) {
        match standing(place, &file.name, bytes).await? {
            Standing::Same => {}
            Standing::Other => return Ok(Some(collision())),
            Standing::Absent => place.put(Sub::Outbox, &file.name, bytes).await?,
        }
    }
    Ok(None)
}

/// Renames the manifest into place, unless an earlier attempt did.
async fn announce(place: &Place, manifest: &Name, bytes: &[u8]) -> Result<Outcome, PlaceError> {
    match standing(place, manifest, bytes).await? {
        Standing::Other => return Ok(collision()),
        Standing::Same => {}
        Standing::Absent => place.put(Sub::Outbox, manifest, bytes).await?,
    }
    // The same files from an earlier attempt prove no more than that they were written (invariant 8).
    Ok(Outcome::Delivered {
        grade: Evidence::Sent,
        awaiting: Some(Evidence::ApplicationAck),
        receiver_reference: None,
        receipt: None,
    })
}

/// Makes one attempt.
pub(super) async fn write(
    place: &Place,
    package: &Package,
    waiting_max: usize,
    until: Instant,
) -> Outcome {
    let Ok(manifest) = Name::parse(&package.manifest.file_name()) else {
        let why = Why::new(
            "file.stored",
            "what was stored of this message is no set of files",
        );
        return Outcome::Park {
            reason: ParkReason::Poison,
            why,
        };
    };
    match timeout_at(until, prepare(place, package, waiting_max)).await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(outcome))) => return outcome,
        Ok(Err(error)) => return not_sent(&error),
        Err(_) => {
            let why = Why::new(
                "file.timeout",
                "the files were not written in time; no manifest was",
            );
            return Outcome::Retry { after: None, why };
        }
    }
    let unknown = |text: String| Outcome::Unknown {
        why: Why::new("file.unknown", text),
    };
    match timeout_at(until, announce(place, &manifest, &package.manifest_bytes)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => unknown(format!("the manifest may or may not be in place: {error}")),
        Err(_) => unknown("the manifest was not seen in place in time".to_owned()),
    }
}
