//! The delivery log: notes, checkpoints, proofs, tile paths, bundles and entries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waymark_core::audit::LogEntry;
use waymark_tlog::note::{VerifierKey, open};
use waymark_tlog::{Checkpoint, TilePath, TlogProof, decode_bundle};

fuzz_target!(|data: &[u8]| {
    let _bundle = decode_bundle(data);
    if let Ok(entry) = LogEntry::decode(data) {
        assert_eq!(entry.encode(), data, "one encoding alone");
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _checkpoint = Checkpoint::parse(text);
    let _proof = TlogProof::parse(text);
    let _path = TilePath::parse(text);
    let _note = open(text, &[]);
    let _key = VerifierKey::parse(text);
});
