//! Files left in an agency's own folder at a gateway (docs/partners/file.md): data first, the manifest renamed into
//! place last. What became of each is seen in the folder: taken in, it lies in `done`; else in `failed`, with a reason.

use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use waymark_adapters::file::send::{
    DONE, FAILED, INBOX, Left, SentAs, message_of, set_aside, unfinished,
};
use waymark_adapters::file::{Format, Name};
use waymark_core::error::Violation;
use waymark_core::time::Clock as _;

use super::super::failure::Failure;
use super::outcome::Refused;
use super::{Accepted, Kind, Options, Outcome, Sending, Source, source};
use crate::clock::SystemClock;

/// The pause between two looks at the folder.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of the gateway's word on a file that are read.
const NOTE_BYTES_MAX: u64 = 256 * 1024;

/// A file that waits for the gateway.
struct Waiting<'s> {
    source: &'s Source,
    left: Left,
    /// Whether the same message was taken in before.
    before: bool,
    /// What the gateway said of it before, if it was set aside then.
    old_note: Option<Vec<u8>>,
}

/// Leaves every file in the inbox, then waits for what becomes of them.
pub(super) async fn send(
    sending: &mut Sending<'_>,
    folder: &Path,
    sources: &[Source],
) -> anyhow::Result<()> {
    let missing = [INBOX, DONE, FAILED]
        .into_iter()
        .find(|sub| !folder.join(sub).is_dir());
    if let Some(sub) = missing {
        return Err(Failure::usage(format!(
            "--folder {}: has no folder {sub}: give the agency's own folder, in which the gateway makes inbox, done and \
             failed once it has looked into it",
            folder.display()
        )));
    }
    let mut waiting = Vec::new();
    for source in sources {
        match leave(sending.options, folder, source) {
            Ok(left) => waiting.push(left),
            Err(refused) => sending.done(source, Outcome::Refused(refused))?,
        }
    }
    let end = Instant::now() + sending.options.patience();
    for one in waiting {
        let outcome = loop {
            if let Some(outcome) = became(folder, &one)? {
                break outcome;
            }
            if Instant::now() >= end {
                let why = "it lies in the inbox, and the gateway has not taken it in: it may look into the folder more \
                           rarely than --wait allows, or not at all";
                break Outcome::Unanswered {
                    why: why.to_owned(),
                };
            }
            tokio::time::sleep(LOOK).await;
        };
        sending.done(one.source, outcome)?;
    }
    Ok(())
}

fn leave<'s>(options: &Options, folder: &Path, source: &'s Source) -> Result<Waiting<'s>, Refused> {
    let format = match source.kind {
        Kind::Json => Format::Canonical,
        Kind::Hl7 => Format::Hl7v2,
        Kind::Csv => Format::Csv,
        Kind::Message | Kind::Fhir | Kind::Other => {
            let why = "is neither canonical JSON, HL7 v2 nor CSV: FHIR is not taken by file";
            return Err(Refused::local(
                "NOT_BY_FILE",
                vec![Violation::new("file", why)],
            ));
        }
    };
    let data = source::wire(source)?;
    let sent_as = if options.by_folder.amend {
        SentAs::Amendment
    } else {
        SentAs::New
    };
    let (environment, now) = (options.environment, SystemClock.now());
    let left = message_of(format, &data, sent_as, environment, now)
        .map_err(|fault| Refused::local("MALFORMED", vec![fault]))?;
    let unwritten = |error: io::Error| {
        let why = format!("cannot be written into the inbox: {error}");
        Refused::local("UNWRITABLE", vec![Violation::new("file", why)])
    };
    let waiting = Waiting {
        source,
        before: folder.join(DONE).join(left.manifest_name.as_str()).exists(),
        old_note: note(folder, &left.error_name).map_err(unwritten)?,
        left,
    };
    let (left, inbox) = (&waiting.left, folder.join(INBOX));
    put(&inbox, &left.data_name, &data)
        .and_then(|()| put(&inbox, &left.manifest_name, &left.manifest))
        .map_err(unwritten)?;
    Ok(waiting)
}

/// Writes a file under a name that readers pass over, and renames it once it is whole.
pub(in crate::cli) fn put(inbox: &Path, name: &Name, bytes: &[u8]) -> io::Result<()> {
    let part = inbox.join(unfinished(name));
    let mut file = fs::File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(part, inbox.join(name.as_str()))
}

fn note(folder: &Path, name: &Name) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let file = match fs::File::open(folder.join(FAILED).join(name.as_str())) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(NOTE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// What became of a file, once its manifest has left the inbox: the gateway moves that last.
fn became(folder: &Path, one: &Waiting<'_>) -> io::Result<Option<Outcome>> {
    let manifest = one.left.manifest_name.as_str();
    if folder.join(INBOX).join(manifest).try_exists()? {
        return Ok(None);
    }
    let now = note(folder, &one.left.error_name)?;
    if let Some(said) = now.filter(|now| Some(now) != one.old_note.as_ref()) {
        let refused = match set_aside(&said) {
            Some(said) => Refused {
                reason: said.reason,
                message: "set aside by the gateway".to_owned(),
                violations: said.faults,
            },
            None => Refused {
                reason: "SET_ASIDE".to_owned(),
                message: format!("set aside by the gateway: see {}", one.left.error_name),
                violations: Vec::new(),
            },
        };
        return Ok(Some(Outcome::Refused(refused)));
    }
    let accepted = Accepted {
        acknowledgement: Some("by its move to done"),
        ..Accepted::default()
    };
    Ok(Some(if one.before {
        Outcome::Repeated(accepted)
    } else {
        Outcome::Accepted(accepted)
    }))
}
