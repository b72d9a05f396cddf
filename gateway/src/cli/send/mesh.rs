//! Messages sent from an agency's MESH mailbox. What the hub has is not what its receiver has: a file counts as accepted
//! once the receiver acknowledged it, which a gateway does only with what it has stored.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use waymark_adapters::mesh::send::{HubSaid, Letter, Mailbox, Standing, canonical, local_id_of};
use waymark_core::error::Violation;
use zeroize::Zeroizing;

use super::super::client::ClientDuty;
use super::super::failure::Failure;
use super::super::mesh::{MeshClient, mailbox_is_plain};
use super::outcome::Refused;
use super::{Accepted, Kind, MeshOptions, Options, Outcome, Sending, Source, source};

/// The pause between two looks at the hub.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of a secret's file.
const SECRET_BYTES_MAX: u64 = 4_096;

/// A file that the hub has.
struct Waiting<'s> {
    source: &'s Source,
    local_id: String,
    before: bool,
}

/// What a file is to a hub.
struct Content {
    bytes: Vec<u8>,
    media_type: &'static str,
    ending: &'static str,
}

/// Sends every file, then waits for its receiver.
pub(super) async fn send(
    sending: &mut Sending<'_>,
    mesh: &MeshOptions,
    sources: &[Source],
) -> anyhow::Result<()> {
    let client = client(sending.options, mesh)?;
    client.handshake().await.map_err(|why| {
        Failure::unreachable(
            format!("the hub {}", mesh.mesh.as_deref().unwrap_or_default()),
            Handshake(format!("{why:#}")),
        )
    })?;
    let (to, workflow) = (
        needed(mesh.to.as_ref(), "--to")?,
        needed(mesh.workflow.as_ref(), "--workflow")?,
    );
    let from = needed(mesh.mailbox.as_ref(), "--mailbox")?;
    let mut waiting = Vec::new();
    for source in sources {
        let content = match content(sending.options, source) {
            Ok(content) => content,
            Err(refused) => {
                sending.done(source, Outcome::Refused(refused))?;
                continue;
            }
        };
        let local_id = local_id_of(&content.bytes);
        let letter = Letter {
            from,
            to,
            workflow,
            local_id: &local_id,
            file_name: &format!("{local_id}.{}", content.ending),
            subject: &format!("Waymark send {local_id}"),
            media_type: content.media_type,
            bytes: &content.bytes,
        };
        match hand_over(&client, &letter).await {
            Ok(before) => waiting.push(Waiting {
                source,
                local_id,
                before,
            }),
            Err(outcome) => sending.done(source, outcome)?,
        }
    }
    let end = Instant::now() + sending.options.patience();
    for one in waiting {
        let outcome = settled(&client, &one, end).await;
        sending.done(one.source, outcome)?;
    }
    Ok(())
}

/// Why a hub did not take the mailbox's papers.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Handshake(String);

fn needed<'o>(option: Option<&'o String>, name: &str) -> anyhow::Result<&'o str> {
    let missing = || Failure::usage(format!("--mesh needs {name}"));
    option.map(String::as_str).ok_or_else(missing)
}

fn client(options: &Options, mesh: &MeshOptions) -> anyhow::Result<MeshClient> {
    for (name, id) in [("--mailbox", &mesh.mailbox), ("--to", &mesh.to)] {
        if !id.as_deref().is_some_and(mailbox_is_plain) {
            return Err(Failure::usage(format!(
                "{name} is a mailbox id: capital letters and digits, such as X26ABC1"
            )));
        }
    }
    let secret = |name: &str, path: Option<&std::path::PathBuf>| {
        let path = path.ok_or_else(|| Failure::usage(format!("--mesh needs {name}")))?;
        read_secret(name, path)
    };
    let mailbox = Mailbox {
        id: mesh.mailbox.clone().unwrap_or_default(),
        password: secret("--password-file", mesh.password_file.as_ref())?,
        shared_key: secret("--shared-key-file", mesh.shared_key_file.as_ref())?,
    };
    let url = needed(mesh.mesh.as_ref(), "a URL")?;
    let tls = options.client.resolve(ClientDuty::Agency)?.rustls()?;
    MeshClient::new(url, tls, mailbox)
}

fn read_secret(name: &str, path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    use std::io::Read as _;
    let unread = |why: String| Failure::usage(format!("{name} {}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| unread(error.to_string()))?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(SECRET_BYTES_MAX)
        .read_to_end(&mut bytes)
        .context("read a secret")?;
    if bytes.trim_ascii().is_empty() {
        return Err(unread(
            "is empty: it holds the secret on one line".to_owned(),
        ));
    }
    Ok(bytes)
}

fn content(options: &Options, source: &Source) -> Result<Content, Refused> {
    let bytes = source::wire(source)?;
    let (bytes, media_type, ending) = match source.kind {
        Kind::Json => {
            let wrapped = canonical(&bytes, options.environment);
            let wrapped = wrapped.map_err(|fault| Refused::local("MALFORMED", vec![fault]))?;
            (wrapped, "application/json", "json")
        }
        Kind::Hl7 => (bytes, "x-application/hl7-v2+er7", "hl7"),
        Kind::Message => (bytes, "application/fhir+json", "json"),
        Kind::Csv | Kind::Fhir | Kind::Other => {
            let why = "is neither JSON, HL7 v2 nor FHIR as JSON: nothing else is taken by MESH";
            return Err(Refused::local(
                "NOT_BY_MESH",
                vec![Violation::new("file", why)],
            ));
        }
    };
    Ok(Content {
        bytes,
        media_type,
        ending,
    })
}

/// Gives a message to the hub, unless the hub has it already; says whether it had.
async fn hand_over(client: &MeshClient, letter: &Letter<'_>) -> Result<bool, Outcome> {
    let unanswered = |why: String| Outcome::Unanswered { why };
    // MESH makes two messages of one that is sent twice: so it is asked before.
    match client.track(letter.local_id).await {
        Ok(Standing::Absent) => {}
        Ok(_) => return Ok(true),
        Err(why) => return Err(unanswered(format!("{why:#}"))),
    }
    match client.send(letter).await {
        Ok(HubSaid::Taken(_)) => Ok(false),
        Ok(HubSaid::NotKnown(why)) => Err(unanswered(why)),
        Ok(HubSaid::Refused { code, why }) => Err(Outcome::Refused(Refused {
            reason: code,
            message: format!("not taken by the hub: {why}"),
            violations: Vec::new(),
        })),
        Err(why) => Err(unanswered(format!("{why:#}"))),
    }
}

/// Waits until the receiver has fetched a message, or the hub gave it back.
async fn settled(client: &MeshClient, one: &Waiting<'_>, end: Instant) -> Outcome {
    let accepted = || Accepted {
        acknowledgement: Some("by its receiver's mailbox"),
        ..Accepted::default()
    };
    loop {
        let why = match client.track(&one.local_id).await {
            Ok(Standing::Acknowledged) if one.before => return Outcome::Repeated(accepted()),
            Ok(Standing::Acknowledged) => return Outcome::Accepted(accepted()),
            Ok(Standing::GivenBack(why)) => {
                return Outcome::Refused(Refused {
                    reason: "GIVEN_BACK".to_owned(),
                    message: why,
                    violations: Vec::new(),
                });
            }
            Ok(Standing::Several) => {
                let why = "the hub has several messages of its id: ask the receiver which it has";
                return Outcome::Refused(Refused {
                    reason: "SEVERAL".to_owned(),
                    message: why.to_owned(),
                    violations: Vec::new(),
                });
            }
            Ok(Standing::Waiting) => format!(
                "the hub has it as {}, and the receiver has not acknowledged it: it looks into its mailbox more rarely than \
                 --wait allows, or does not take it",
                one.local_id
            ),
            Ok(Standing::Absent) => "the hub took it and does not know it".to_owned(),
            Err(why) => format!("{why:#}"),
        };
        if Instant::now() >= end {
            return Outcome::Unanswered { why };
        }
        tokio::time::sleep(LOOK).await;
    }
}
