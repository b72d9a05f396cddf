//! Signed notes and checkpoints against the published examples and an independent implementation.

use proptest::prelude::*;
use signed_note::{Note, StandardVerifier, VerifierList};
use waymark_tlog::note::{
    self, NAME_BYTES_MAX, NOTE_BYTES_MAX, NoteError, SIGNATURES_MAX, SigningKey, VerifierKey,
};
use waymark_tlog::{Checkpoint, CheckpointError, Hash, ORIGIN_BYTES_MAX, TREE_SIZE_MAX, leaf_hash};

const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

#[test]
fn the_example_of_the_specification_opens() {
    let key = VerifierKey::parse(VKEY).expect("published key");
    assert_eq!(
        (key.name(), key.id(), key.to_string()),
        ("example.com/foo", 0x530d_903a, VKEY.into())
    );
    let opened = note::open(NOTE, &[key]).expect("published note");
    assert_eq!(opened.text, "This is an example message.\n");
    assert_eq!(opened.signers.len(), 1);
}

#[test]
fn every_flipped_bit_of_a_note_or_key_is_refused() {
    let key = VerifierKey::parse(VKEY).expect("published key");
    for at in 0..NOTE.len() {
        for bit in 0..8 {
            let mut bytes = NOTE.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            let Ok(bent) = String::from_utf8(bytes) else {
                continue;
            };
            assert!(
                note::open(&bent, std::slice::from_ref(&key)).is_err(),
                "byte {at}: {bent:?}"
            );
        }
    }
    for at in 0..VKEY.len() {
        for bit in 0..8 {
            let mut bytes = VKEY.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            let Ok(bent) = String::from_utf8(bytes) else {
                continue;
            };
            assert!(VerifierKey::parse(&bent).is_err(), "byte {at}: {bent:?}");
        }
    }
}

#[test]
fn unknown_signatures_are_ignored_and_a_known_wrong_one_is_not() {
    let (ours, other) = (key("log.test/a", 1), key("witness.test/b", 2));
    let text = "some text\n\nwith a blank line\n";
    let both = note::sign(text, &[&ours, &other]).expect("good text");
    let opened = note::open(&both, &[ours.verifier()]).expect("ours is known");
    assert_eq!((opened.text.as_str(), opened.signers.len()), (text, 1));
    let opened = note::open(&both, &[ours.verifier(), other.verifier()]).expect("both known");
    assert_eq!(opened.signers.len(), 2);

    let unknown = note::open(&both, &[key("log.test/a", 3).verifier()]);
    assert_eq!(unknown, Err(NoteError::NoKnownSignature));
    let forged = both.replacen("some", "same", 1);
    let refused = note::open(&forged, &[ours.verifier()]);
    assert_eq!(
        refused,
        Err(NoteError::BadSignature {
            name: "log.test/a".into()
        })
    );
    assert_eq!(note::open(&both, &[]), Err(NoteError::NoKnownSignature));
}

#[test]
fn a_later_wrong_signature_of_a_known_key_spoils_the_note() {
    let ours = key("log.test/a", 1);
    let note = note::sign("text\n", &[&ours]).expect("good text");
    let other = note::sign("other\n", &[&ours]).expect("good text");
    let line = other.lines().last().expect("a signature");
    let spoiled = format!("{note}{line}\n");
    let refused = note::open(&spoiled, &[ours.verifier()]);
    assert_eq!(
        refused,
        Err(NoteError::BadSignature {
            name: "log.test/a".into()
        })
    );
    let line = note.lines().last().expect("a signature");
    let doubled = format!("{note}{line}\n");
    assert_eq!(
        note::open(&doubled, &[ours.verifier()]).map(|opened| opened.signers.len()),
        Ok(1)
    );
}

#[test]
fn limits_hold_at_their_edges() {
    let ours = key("log.test/a", 1);
    let keys = vec![&ours; SIGNATURES_MAX];
    let note = note::sign("text\n", &keys).expect("as many as allowed");
    assert!(note::open(&note, &[ours.verifier()]).is_ok());
    let over = vec![&ours; SIGNATURES_MAX + 1];
    assert_eq!(
        note::sign("text\n", &over),
        Err(NoteError::TooManySignatures)
    );
    let line = note.lines().last().expect("a signature");
    let refused = note::open(&format!("{note}{line}\n"), &[ours.verifier()]);
    assert_eq!(refused, Err(NoteError::TooManySignatures));

    let overhead = note::sign("\n", &[&ours]).expect("good text").len() - 1;
    let longest = format!("{}\n", "x".repeat(NOTE_BYTES_MAX - overhead - 1));
    let note = note::sign(&longest, &[&ours]).expect("as long as allowed");
    assert_eq!(note.len(), NOTE_BYTES_MAX);
    assert!(note::open(&note, &[ours.verifier()]).is_ok());
    assert_eq!(
        note::sign(&format!("x{longest}"), &[&ours]),
        Err(NoteError::TooLong)
    );
    assert_eq!(
        note::open(&format!("x{note}"), &[ours.verifier()]),
        Err(NoteError::TooLong)
    );

    let name = "n".repeat(NAME_BYTES_MAX);
    assert!(SigningKey::from_seed(&name, [1; 32]).is_ok());
    let refused = SigningKey::from_seed(&format!("{name}n"), [1; 32]);
    assert_eq!(refused.err(), Some(NoteError::BadName));
}

#[test]
fn names_that_would_break_a_line_are_refused() {
    for name in [
        "",
        "a b",
        "a+b",
        "a\nb",
        "a\u{a0}b",
        "a\u{2003}",
        "\t",
        "a\u{7f}",
    ] {
        assert_eq!(
            SigningKey::from_seed(name, [1; 32]).err(),
            Some(NoteError::BadName),
            "{name:?}"
        );
    }
    for text in ["", "no newline", "tab\t\n", "cr\r\n", "nul\0\n"] {
        assert_eq!(
            note::sign(text, &[&key("a", 1)]),
            Err(NoteError::BadText),
            "{text:?}"
        );
    }
    assert_eq!(note::sign("text\n", &[]), Err(NoteError::NoKnownSignature));
}

#[test]
fn a_key_of_another_type_or_a_weak_one_is_refused() {
    // The identity point, for which one signature fits many texts, with a true key id.
    for vkey in [
        "a+e9c4f2d3+AQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "a+00000000+BOkyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "a+00000000+",
        "a+00000000",
        "a",
    ] {
        assert_eq!(VerifierKey::parse(vkey), Err(NoteError::BadKey), "{vkey}");
    }
    assert_eq!(
        VerifierKey::parse(&VKEY.replacen("foo", "fop", 1)),
        Err(NoteError::KeyIdMismatch)
    );
    assert_eq!(
        VerifierKey::parse(&VKEY.replacen("3a", "3A", 1)),
        Err(NoteError::KeyIdMismatch)
    );
}

#[test]
fn a_signing_key_does_not_show_itself() {
    let shown = format!("{:?}", key("log.test/a", 0xAB));
    assert_eq!(shown, "SigningKey { name: \"log.test/a\", .. }");
}

#[test]
fn checkpoint_origins_cannot_smuggle_lines() {
    for origin in ["", "a\nb", "a\n5\n", "\n", "a\rb", "a\0", "a\u{85}b"] {
        let refused = Checkpoint::new(origin, 0, Hash::EMPTY_ROOT);
        assert_eq!(refused, Err(CheckpointError::BadOrigin), "{origin:?}");
    }
    let longest = "o".repeat(ORIGIN_BYTES_MAX);
    assert!(Checkpoint::new(&longest, 0, Hash::EMPTY_ROOT).is_ok());
    let refused = Checkpoint::new(&format!("{longest}o"), 0, Hash::EMPTY_ROOT);
    assert_eq!(refused, Err(CheckpointError::BadOrigin));
}

#[test]
fn checkpoint_limits_hold_at_their_edges() {
    let root = leaf_hash(b"");
    assert!(Checkpoint::new("o", TREE_SIZE_MAX, root).is_ok());
    assert_eq!(
        Checkpoint::new("o", TREE_SIZE_MAX + 1, root),
        Err(CheckpointError::TooLarge)
    );
    assert_eq!(
        Checkpoint::new("o", 0, root),
        Err(CheckpointError::BadEmptyRoot)
    );
    let text = Checkpoint::new("o", 3, root).expect("good").text();
    let parsed = Checkpoint::parse(&format!("{text}an extension\n")).expect("allowed and ignored");
    assert_eq!(
        (parsed.origin(), parsed.size(), parsed.root()),
        ("o", 3, root)
    );
    for bent in [
        format!("{text}\n"),
        format!("{text}\next\n"),
        text.replacen('3', "03", 1),
        text.replacen('=', "", 1),
    ] {
        assert_eq!(
            Checkpoint::parse(&bent),
            Err(CheckpointError::Malformed),
            "{bent:?}"
        );
    }
}

proptest! {
    #[test]
    fn signed_note_accepts_what_we_sign(text in "[ -~\u{e9}\u{2014}\n]{0,80}", seed: [u8; 32]) {
        let ours = SigningKey::from_seed("log.test/a", seed).expect("good name");
        let text = format!("{text}\n");
        let note = note::sign(&text, &[&ours]).expect("good text");
        let theirs = Note::from_bytes(note.as_bytes()).expect("well-formed");
        let verifier = StandardVerifier::new(&ours.vkey()).expect("well-formed");
        let (verified, unknown) = theirs.verify(&VerifierList::new(vec![Box::new(verifier)])).expect("signed");
        prop_assert_eq!((verified.len(), unknown.len()), (1, 0));
        prop_assert_eq!(theirs.text(), text.as_bytes());
        let opened = note::open(&note, &[ours.verifier()]).expect("signed");
        prop_assert_eq!(opened.text, text);
    }

    #[test]
    fn we_accept_no_note_that_signed_note_refuses(at: prop::sample::Index, put in "[a\n\u{2014} +=]{0,3}") {
        // Splices foreign text into a good note; the two may only differ where we are stricter.
        let ours = key("log.test/a", 1);
        let mut note = note::sign("line\n\nline\n", &[&ours]).expect("good text");
        let mut place = at.index(note.len() + 1);
        while !note.is_char_boundary(place) {
            place -= 1;
        }
        note.insert_str(place, &put);
        if note::open(&note, &[ours.verifier()]).is_ok() {
            let verifier = StandardVerifier::new(&ours.vkey()).expect("well-formed");
            let theirs = Note::from_bytes(note.as_bytes()).expect("well-formed");
            prop_assert!(theirs.verify(&VerifierList::new(vec![Box::new(verifier)])).is_ok());
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}", line in "[\u{2014} a-zA-Z0-9+/=\n]{0,60}") {
        let known = [VerifierKey::parse(VKEY).expect("published key")];
        prop_assert!(note::open(&text, &known).is_err());
        let unsigned = format!("a\n\n{line}");
        prop_assert!(note::open(&unsigned, &known).is_err());
        prop_assert!(VerifierKey::parse(&text).is_err());
        prop_assert!(Checkpoint::parse(&text).is_err());
    }
}

fn key(name: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(name, [seed; 32]).expect("good name")
}
