//! What is to be sent: files found, sorted into kinds, read and bounded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use waymark_adapters::fhir::send::headers_of;
use waymark_adapters::hl7v2::content::Envelope;
use waymark_adapters::hl7v2::fault::FieldFault;
use waymark_adapters::hl7v2::message::{LineEndings, MESSAGE_BYTES_MAX, Message};
use waymark_core::error::Violation;
use waymark_core::referral::Referral;

use super::super::failure::Failure;
use super::outcome::Refused;

/// Files of one command.
pub(super) const FILES_MAX: usize = 100_000;
/// Bytes of one file.
pub(super) const FILE_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Bytes at the beginning of a file that tell its kind where its name does not.
const SNIFF_BYTES: usize = 512;

/// What a file is, as far as its name and beginning say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// JSON.
    Json,
    /// HL7 v2.
    Hl7,
    /// A table, for a folder alone.
    Csv,
    /// A FHIR resource as JSON.
    Message,
    /// FHIR as XML.
    Fhir,
    /// None of these.
    Other,
}

impl Kind {
    fn of_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "json" => Some(Self::Json),
            "hl7" => Some(Self::Hl7),
            "csv" => Some(Self::Csv),
            "xml" => Some(Self::Fhir),
            _ => None,
        }
    }

    fn of_beginning(bytes: &[u8]) -> Self {
        let bytes = bytes
            .strip_prefix(b"\xef\xbb\xbf")
            .unwrap_or(bytes)
            .trim_ascii_start();
        match bytes {
            [b'M', b'S', b'H', ..] => Self::Hl7,
            [b'{', ..] => Self::Json,
            [b'<', ..] => Self::Fhir,
            _ => Self::Other,
        }
    }
}

/// A file to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

/// What a file holds.
pub(super) enum Content {
    /// A referral, and the digest of its file as message key.
    Referral(Box<Referral>, String),
    /// A message as MLLP carries it, and its header.
    Hl7(Vec<u8>, Box<Envelope>),
    /// A FHIR message, and the headers that go with it.
    Fhir(Vec<u8>, Box<hyper::HeaderMap>),
}

/// Lists the files behind paths: a file as itself, a folder as its files of known kinds in the order of their names,
/// tables only where they can go.
pub(super) fn collect(paths: &[PathBuf], tables: bool) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        let unread = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
        if std::fs::metadata(path).map_err(unread)?.is_dir() {
            let mut inside = BTreeMap::new();
            for entry in std::fs::read_dir(path).map_err(unread)? {
                let file = entry.map_err(unread)?.path();
                let kind = Kind::of_name(&file).filter(|kind| tables || *kind != Kind::Csv);
                if let Some(kind) = kind.filter(|_| file.is_file()) {
                    inside.insert(file, kind);
                }
            }
            sources.extend(inside.into_iter().map(|(path, kind)| Source { path, kind }));
        } else {
            let kind = match Kind::of_name(path) {
                Some(kind) => kind,
                None => Kind::of_beginning(&beginning(path).map_err(unread)?),
            };
            sources.push(Source {
                path: path.clone(),
                kind,
            });
        }
        if sources.len() > FILES_MAX {
            return Err(Failure::usage(format!(
                "more than {FILES_MAX} files: send them in parts"
            )));
        }
    }
    for source in sources.iter_mut().filter(|s| s.kind == Kind::Json) {
        // What cannot be read is said when it is its turn.
        if bounded(&source.path).is_ok_and(|bytes| is_resource(&bytes)) {
            source.kind = Kind::Message;
        }
    }
    if sources.is_empty() {
        return Err(Failure::usage("no *.json, *.hl7 or *.xml file to send"));
    }
    Ok(sources)
}

fn beginning(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let most = u64::try_from(SNIFF_BYTES).unwrap_or(u64::MAX);
    std::fs::File::open(path)?
        .take(most)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The bytes of a file that is not larger than is sent.
fn bounded(path: &Path) -> Result<Vec<u8>, Refused> {
    let unread = |why: String| Refused::local("UNREADABLE", vec![Violation::new("file", why)]);
    let length = std::fs::metadata(path)
        .map_err(|e| unread(e.to_string()))?
        .len();
    if length > u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX) {
        return Err(Refused::local(
            "TOO_LARGE",
            vec![Violation::new(
                "file",
                format!("is larger than {FILE_BYTES_MAX} bytes"),
            )],
        ));
    }
    std::fs::read(path).map_err(|e| unread(e.to_string()))
}

/// Reads and parses a file.
pub(super) fn read(source: &Source) -> Result<Content, Refused> {
    let bytes = bounded(&source.path)?;
    match source.kind {
        Kind::Message => message(bytes),
        Kind::Json => referral(&bytes),
        Kind::Hl7 => hl7(&bytes).map_err(|fault| Refused::of_fault(&fault)),
        Kind::Csv | Kind::Fhir | Kind::Other => Err(not_taken(source)),
    }
}

/// The bytes of a file as they go where a message is carried as it is; HL7 v2 with each segment ended by CR alone.
pub(super) fn wire(source: &Source) -> Result<Vec<u8>, Refused> {
    let bytes = bounded(&source.path)?;
    if source.kind != Kind::Hl7 {
        return Ok(bytes);
    }
    match hl7(&bytes) {
        Ok(Content::Hl7(wire, _)) => Ok(wire),
        Ok(Content::Referral(..) | Content::Fhir(..)) => Ok(bytes),
        Err(fault) => Err(Refused::of_fault(&fault)),
    }
}

/// Why a file of this kind is not sent at all.
pub(super) fn not_taken(source: &Source) -> Refused {
    match source.kind {
        Kind::Fhir => fhir(),
        Kind::Csv => Refused::local(
            "CSV",
            vec![Violation::new(
                "file",
                "is a table: it goes by --folder alone",
            )],
        ),
        Kind::Json | Kind::Message | Kind::Hl7 | Kind::Other => Refused::local(
            "UNKNOWN_KIND",
            vec![Violation::new(
                "file",
                "is neither JSON nor HL7 v2: name it *.json or *.hl7",
            )],
        ),
    }
}

fn fhir() -> Refused {
    let why = "is FHIR as XML: send it as JSON";
    Refused::local("FHIR_XML", vec![Violation::new("file", why)])
}

fn is_resource(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Resource>(bytes).is_ok()
}

/// A FHIR message as it goes: the file's own bytes.
fn message(bytes: Vec<u8>) -> Result<Content, Refused> {
    match headers_of(&bytes) {
        Ok(headers) => Ok(Content::Fhir(bytes, Box::new(headers))),
        Err(fault) => {
            let code = format!(
                "FHIR_{}",
                fault.issue.code().to_ascii_uppercase().replace('-', "_")
            );
            Err(Refused::local(
                &code,
                vec![Violation::new(fault.path, fault.rule)],
            ))
        }
    }
}

fn referral(bytes: &[u8]) -> Result<Content, Refused> {
    match Referral::from_canonical(bytes) {
        Ok(referral) => Ok(Content::Referral(
            Box::new(referral),
            hex::encode(digest(&SHA256, bytes)),
        )),
        Err(error) => {
            let place = format!("line {}, column {}", error.line(), error.column());
            Err(Refused::local(
                "MALFORMED",
                vec![Violation::new(place, without_values(&error.to_string()))],
            ))
        }
    }
}

/// What tells a FHIR resource from other JSON.
#[derive(serde::Deserialize)]
struct Resource {
    #[serde(rename = "resourceType")]
    _kind: serde::de::IgnoredAny,
}

/// The parser's words without the values that it quotes, and without the place, which stands before them.
fn without_values(message: &str) -> String {
    let message = message
        .rsplit_once(" at line ")
        .map_or(message, |(words, _)| words);
    let mut inside = false;
    let mut text = String::new();
    for c in message.chars() {
        match (c, inside) {
            ('"', false) => text.push('…'),
            (c, false) => text.push(c),
            (_, true) => {}
        }
        inside ^= c == '"';
    }
    text
}

/// The message as MLLP carries it: the file's own bytes, each segment ended by CR alone.
fn hl7(bytes: &[u8]) -> Result<Content, FieldFault> {
    let message = Message::parse(bytes, LineEndings::Any)?;
    let envelope = Envelope::read(&message)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut wire = Vec::with_capacity(bytes.len() + 1);
    for line in bytes
        .split(|b| matches!(b, b'\r' | b'\n'))
        .filter(|line| !line.is_empty())
    {
        wire.extend_from_slice(line);
        wire.push(b'\r');
    }
    Ok(Content::Hl7(wire, Box::new(envelope)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "MSH|^~\\&|EPR|R1L|WAYMARK|X|2026||REF^I12^REF_I12|M1|T|2.5\rPID|1\r";

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    fn only(name: &str, bytes: &[u8]) -> Result<Content, Refused> {
        let dir = folder(&[(name, bytes)]);
        let sources = collect(&[dir.path().join(name)], false).unwrap();
        read(sources.first().unwrap())
    }

    fn refused(name: &str, bytes: &[u8]) -> Refused {
        match only(name, bytes) {
            Ok(_) => panic!("{name} was taken"),
            Err(refused) => refused,
        }
    }

    #[test]
    fn a_folder_is_its_known_files_in_the_order_of_their_names() {
        let dir = folder(&[
            ("b.hl7", b""),
            ("a.JSON", b""),
            ("c.xml", b""),
            ("README.md", b""),
            (".d.json", b""),
        ]);
        std::fs::create_dir(dir.path().join("z.json")).unwrap();
        let found = collect(&[dir.path().to_owned()], false).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|s| (s.path.file_name().unwrap().to_str().unwrap(), s.kind))
            .collect();
        assert_eq!(
            names,
            [
                (".d.json", Kind::Json),
                ("a.JSON", Kind::Json),
                ("b.hl7", Kind::Hl7),
                ("c.xml", Kind::Fhir)
            ]
        );
    }

    #[test]
    fn a_file_without_a_known_name_is_told_by_its_beginning() {
        for (bytes, kind) in [
            (&b"\xef\xbb\xbfMSH|^~\\&|"[..], Kind::Hl7),
            (b"  \n{\"child\"", Kind::Json),
            (b"<Bundle/>", Kind::Fhir),
            (b"hello", Kind::Other),
        ] {
            let dir = folder(&[("message", bytes)]);
            assert_eq!(
                collect(&[dir.path().join("message")], false)
                    .unwrap()
                    .first()
                    .unwrap()
                    .kind,
                kind
            );
        }
    }

    #[test]
    fn nothing_to_send_is_a_mistake_on_the_command_line() {
        let dir = folder(&[("README.md", b"")]);
        assert!(collect(&[dir.path().to_owned()], false).is_err());
        assert!(collect(&[dir.path().join("none.json")], false).is_err());
    }

    #[test]
    fn line_ends_of_a_message_become_cr_and_its_bytes_stay() {
        let latin1 = b"MSH|^~\\&|A|B|C|D|2026||REF^I12|M1|T|2.4||||||8859/1\r\nPID|||1||Zo\xeb\n\n";
        let Ok(Content::Hl7(wire, envelope)) = only("m.hl7", latin1) else {
            panic!("refused")
        };
        assert_eq!(
            wire,
            b"MSH|^~\\&|A|B|C|D|2026||REF^I12|M1|T|2.4||||||8859/1\rPID|||1||Zo\xeb\r"
        );
        assert_eq!(envelope.control_id, "M1");
        for ends in ["\n", "\r\n", "\r"] {
            let text = MESSAGE.replace('\r', ends);
            let Ok(Content::Hl7(wire, _)) = only("m.hl7", text.as_bytes()) else {
                panic!("refused")
            };
            assert_eq!(wire, MESSAGE.as_bytes());
        }
    }

    #[test]
    fn a_message_without_a_header_is_refused_by_segment() {
        let refused = refused("m.hl7", b"PID|1\r");
        assert_eq!(refused.violations.first().unwrap().field, "MSH");
    }

    #[test]
    fn a_fhir_message_goes_with_its_headers_and_what_is_none_is_refused_by_its_path() {
        let message = include_bytes!("../../../../adapters/src/fhir/fixtures/bars-new.json");
        let Ok(Content::Fhir(bytes, headers)) = only("b.json", message) else {
            panic!("refused")
        };
        assert_eq!(bytes, message);
        assert!(headers.contains_key("x-request-id"));
        assert_eq!(refused("b.xml", b"<Bundle/>").reason, "FHIR_XML");
        let patient = refused("p.json", b"{\"resourceType\":\"Patient\"}");
        assert_eq!(patient.reason, "FHIR_NOT_SUPPORTED");
        assert_eq!(patient.violations.first().unwrap().field, "Bundle");
    }

    #[test]
    fn malformed_json_is_refused_by_line_without_its_values() {
        let refused = refused("r.json", b"{\n  \"child\": \"Ada Example\"\n}");
        let violation = refused.violations.first().unwrap();
        assert!(violation.field.starts_with("line 2,"), "{violation}");
        assert!(!refused.to_string().contains("Ada"), "{refused}");
    }

    #[test]
    fn a_referral_is_sent_under_the_digest_of_its_file() {
        let bytes = super::super::EXAMPLE.as_bytes();
        let Ok(Content::Referral(_, key)) = only("r.json", bytes) else {
            panic!("refused")
        };
        assert_eq!(key, hex::encode(digest(&SHA256, bytes)));
        let other = super::super::EXAMPLE.replace("  ", " ");
        let Ok(Content::Referral(_, other)) = only("r.json", other.as_bytes()) else {
            panic!("refused")
        };
        assert_ne!(key, other);
    }

    #[test]
    fn files_have_a_largest_size() {
        let mut text = MESSAGE.as_bytes().to_vec();
        text.extend(b"NTE|1||");
        text.resize(FILE_BYTES_MAX, b'x');
        assert!(only("m.hl7", &text).is_ok());
        text.push(b'x');
        assert_eq!(refused("m.hl7", &text).reason, "TOO_LARGE");
    }
}
