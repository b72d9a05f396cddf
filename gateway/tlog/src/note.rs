//! Signed notes, C2SP signed-note v1.0.0, with Ed25519 keys (signature type 0x01) alone.

use std::fmt;

use ed25519_dalek::Signer as _;
use sha2::{Digest, Sha256};

use crate::encoding::{base64, from_base64};

/// Longest note that is read, which leaves room for 16 post-quantum signatures of others.
pub const NOTE_BYTES_MAX: usize = 256 * 1024;
/// Most signature lines that are read; the specification asks for at least 16.
pub const SIGNATURES_MAX: usize = 64;
/// Longest key name.
pub const NAME_BYTES_MAX: usize = 255;

const ED25519: u8 = 0x01;
const ID_BYTES: usize = 4;
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Why a note or a key is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoteError {
    /// A key name is empty, too long, or has a space, a plus or a control character.
    BadName,
    /// A verifier key line is not of the specified form.
    BadKey,
    /// The key id of a verifier key line is not that of its name and key.
    KeyIdMismatch,
    /// A text to sign does not end in a newline, or has another control character.
    BadText,
    /// A note is longer than [`NOTE_BYTES_MAX`].
    TooLong,
    /// A note has more than [`SIGNATURES_MAX`] signature lines.
    TooManySignatures,
    /// A note is not text, blank line and signature lines.
    Malformed,
    /// The signature of a known key is wrong.
    BadSignature {
        /// Name of that key.
        name: String,
    },
    /// No known key has signed the note.
    NoKnownSignature,
}

impl fmt::Display for NoteError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName => out.write_str("the key name is not allowed"),
            Self::BadKey => out.write_str("the verifier key is malformed"),
            Self::KeyIdMismatch => out.write_str("the key id does not belong to the key"),
            Self::BadText => out.write_str("the text cannot be signed"),
            Self::TooLong => out.write_str("the note is too long"),
            Self::TooManySignatures => out.write_str("the note has too many signatures"),
            Self::Malformed => out.write_str("the note is malformed"),
            Self::BadSignature { name } => write!(out, "the signature of {name} is wrong"),
            Self::NoKnownSignature => out.write_str("no known key has signed the note"),
        }
    }
}

impl std::error::Error for NoteError {}

/// A named Ed25519 key that signs notes; it is wiped from memory when dropped.
pub struct SigningKey {
    name: String,
    key: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// Makes the key from its name and its 32 secret bytes, of which the caller wipes its own copy.
    pub fn from_seed(name: &str, seed: [u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            key: ed25519_dalek::SigningKey::from_bytes(&seed),
        })
    }

    /// Name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public half.
    pub fn verifier(&self) -> VerifierKey {
        VerifierKey {
            name: self.name.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// The public half as its one-line text form.
    pub fn vkey(&self) -> String {
        self.verifier().to_string()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SigningKey")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A named public key that verifies notes.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: ed25519_dalek::VerifyingKey,
}

impl VerifierKey {
    /// Reads the one-line form `<name>+<id>+<base64>`, without a newline.
    pub fn parse(vkey: &str) -> Result<Self, NoteError> {
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::BadKey);
        };
        check_name(name)?;
        let key = from_base64(key).ok_or(NoteError::BadKey)?;
        let Some((&ED25519, key)) = key.split_first() else {
            return Err(NoteError::BadKey);
        };
        let key: [u8; 32] = key.try_into().map_err(|_| NoteError::BadKey)?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&key).map_err(|_| NoteError::BadKey)?;
        if key.is_weak() {
            return Err(NoteError::BadKey);
        }
        let parsed = Self {
            name: name.to_owned(),
            key,
        };
        if id == format!("{:08x}", parsed.id()) {
            Ok(parsed)
        } else {
            Err(NoteError::KeyIdMismatch)
        }
    }

    /// Name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Key id: a short identifier and no protection.
    pub fn id(&self) -> u32 {
        let mut state = Sha256::new();
        state.update(self.name.as_bytes());
        state.update([b'\n', ED25519]);
        state.update(self.key.as_bytes());
        let digest: [u8; 32] = state.finalize().into();
        digest
            .first_chunk::<ID_BYTES>()
            .map_or(0, |id| u32::from_be_bytes(*id))
    }

    fn verifies(&self, text: &str, signature: &[u8]) -> bool {
        ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_strict(text.as_bytes(), &signature).is_ok())
    }
}

/// Writes the one-line form that [`VerifierKey::parse`] reads.
impl fmt::Display for VerifierKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519];
        key.extend_from_slice(self.key.as_bytes());
        write!(out, "{}+{:08x}+{}", self.name, self.id(), base64(&key))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "VerifierKey({self})")
    }
}

/// Signs a text, which ends in a newline, with every key.
pub fn sign(text: &str, keys: &[&SigningKey]) -> Result<String, NoteError> {
    if !text.ends_with('\n') || has_control(text) {
        return Err(NoteError::BadText);
    }
    if keys.len() > SIGNATURES_MAX {
        return Err(NoteError::TooManySignatures);
    }
    if keys.is_empty() {
        return Err(NoteError::NoKnownSignature);
    }
    let mut note = format!("{text}\n");
    for key in keys {
        let mut signature = key.verifier().id().to_be_bytes().to_vec();
        signature.extend_from_slice(&key.key.sign(text.as_bytes()).to_bytes());
        note.push_str(SIGNATURE_PREFIX);
        note.push_str(&key.name);
        note.push(' ');
        note.push_str(&base64(&signature));
        note.push('\n');
    }
    if note.len() > NOTE_BYTES_MAX {
        Err(NoteError::TooLong)
    } else {
        Ok(note)
    }
}

/// The text of a note and who was found to have signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The signed text, with its final newline.
    pub text: String,
    /// Every known key that has signed, once each, in the order of the note.
    pub signers: Vec<Signer>,
}

/// Names a key by its name and its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signer {
    /// Name of the key.
    pub name: String,
    /// Id of the key.
    pub id: u32,
}

/// Verifies a note: at least one known key has signed it, and no known key's signature is wrong.
///
/// Well-formed signature lines of unknown keys are ignored.
pub fn open(note: &str, keys: &[VerifierKey]) -> Result<Verified, NoteError> {
    let (text, lines) = split(note)?;
    let known: Vec<(Signer, &VerifierKey)> = keys
        .iter()
        .map(|key| {
            (
                Signer {
                    name: key.name.clone(),
                    id: key.id(),
                },
                key,
            )
        })
        .collect();
    let mut signers = Vec::new();
    for line in lines {
        let mut candidates = known
            .iter()
            .filter(|(signer, _)| *signer == line.signer)
            .peekable();
        if candidates.peek().is_none() {
            continue;
        }
        if !candidates.any(|(_, key)| key.verifies(text, &line.signature)) {
            return Err(NoteError::BadSignature {
                name: line.signer.name,
            });
        }
        if !signers.contains(&line.signer) {
            signers.push(line.signer);
        }
    }
    if signers.is_empty() {
        return Err(NoteError::NoKnownSignature);
    }
    Ok(Verified {
        text: text.to_owned(),
        signers,
    })
}

struct SignatureLine {
    signer: Signer,
    signature: Vec<u8>,
}

/// Splits a note at its last blank line into its text and its signature lines.
fn split(note: &str) -> Result<(&str, Vec<SignatureLine>), NoteError> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(NoteError::TooLong);
    }
    if has_control(note) {
        return Err(NoteError::Malformed);
    }
    let blank = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
    let (text, signatures) = note
        .split_at_checked(blank + 1)
        .ok_or(NoteError::Malformed)?;
    let signatures = signatures.strip_prefix('\n').ok_or(NoteError::Malformed)?;
    let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Malformed)?;
    let mut lines = Vec::new();
    for line in signatures.split('\n') {
        if lines.len() == SIGNATURES_MAX {
            return Err(NoteError::TooManySignatures);
        }
        lines.push(signature_line(line).ok_or(NoteError::Malformed)?);
    }
    Ok((text, lines))
}

fn signature_line(line: &str) -> Option<SignatureLine> {
    let (name, signature) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
    check_name(name).ok()?;
    let bytes = from_base64(signature)?;
    let (id, signature) = bytes.split_first_chunk::<ID_BYTES>()?;
    let signer = Signer {
        name: name.to_owned(),
        id: u32::from_be_bytes(*id),
    };
    (!signature.is_empty()).then(|| SignatureLine {
        signer,
        signature: signature.to_vec(),
    })
}

fn check_name(name: &str) -> Result<(), NoteError> {
    let allowed = |symbol: char| !symbol.is_whitespace() && !symbol.is_control() && symbol != '+';
    let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(allowed);
    if good {
        Ok(())
    } else {
        Err(NoteError::BadName)
    }
}

fn has_control(text: &str) -> bool {
    text.bytes().any(|byte| byte < b' ' && byte != b'\n')
}
