//! The binary: exit codes, and output for people and scripts.

use std::process::{Command, Output};

use serde_json::Value;

use crate::sample::{Log, Sample, stream_id};

fn run(arguments: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_waymark-audit");
    Command::new(binary)
        .args(arguments)
        .output()
        .expect("started")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

#[test]
fn an_honest_tree_exits_with_0_and_a_bent_one_with_1() {
    let sample = Sample::new();
    let dir = sample.path().to_str().expect("text");
    let good = run(&["verify", dir]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let text = String::from_utf8(good.stdout).expect("text");
    assert!(
        text.contains("600 entries") && text.ends_with("ok: everything holds\n"),
        "{text}"
    );
    assert_eq!(
        String::from_utf8(good.stderr).expect("text"),
        "",
        "no progress without a terminal"
    );

    let mut tile = sample.read("tile/0/001");
    tile[70] ^= 1;
    sample.write("tile/0/001", tile);
    let bad = run(&["verify", dir]);
    assert_eq!(bad.status.code(), Some(1));
    let text = String::from_utf8(bad.stdout).expect("text");
    assert!(
        text.contains("WRONG    tile/0/001, byte 70: hash 2 is not that of entry 258\n"),
        "{text}"
    );
    let bad = run(&["verify", dir, "--output", "json"]);
    assert_eq!(bad.status.code(), Some(1));
    let report = json(&bad);
    assert_eq!(report["verdict"], "tampered");
    assert_eq!(report["findings"][0]["what"], "tile_altered");
    assert_eq!(report["findings"][0]["byte"], 70);
}

#[test]
fn what_cannot_be_told_exits_with_2() {
    let sample = Sample::of(Log::honest(30), &[10]);
    let dir = sample.path().to_str().expect("text");
    for arguments in [
        &["verify", "/nowhere/at/all"][..],
        &["verify", dir, "--vkey", "/nowhere/at/all"],
        &["verify", dir, "--old-checkpoint", "/nowhere/at/all"],
        &[
            "verify",
            dir,
            "--stream",
            "00000000000000000000000000000000",
        ],
        &["verify", dir, "--stream", "no stream"],
        &["verify"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_stream_is_listed_in_full() {
    let sample = Sample::new();
    let dir = sample.path().to_str().expect("text");
    let stream = stream_id(17).to_string().replace('-', "");
    let listed = run(&["verify", dir, "--stream", &stream]);
    let text = String::from_utf8(listed.stdout).expect("text");
    assert!(
        text.contains("complete and unaltered up to this checkpoint"),
        "{text}"
    );
    assert_eq!(text.matches("  ATTEMPT  ").count(), 14);
    let listed = json(&run(&[
        "verify", dir, "--stream", &stream, "--output", "json",
    ]));
    assert_eq!(listed["stream"]["complete_and_unaltered"], true);
    assert_eq!(listed["stream"]["entries"][14]["index"], 577);
    assert_eq!(listed["stream"]["entries"][14]["stream_seq"], 14);
}

#[test]
fn a_receipt_is_verified_alone_and_against_the_tree() {
    let sample = Sample::new();
    let place = tempfile::tempdir().expect("a directory");
    let file = |name: &str, bytes: &[u8]| {
        let path = place.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path.into_os_string().into_string().expect("text")
    };
    let proof = file(
        "mine.tlog-proof",
        sample.log.receipt(18, 300).encode().as_bytes(),
    );
    let entry = file("entry", &sample.log.bytes[18]);
    let other = file("other", &sample.log.bytes[19]);
    let vkey = sample.log.key.vkey();
    let vkey_file = file("log.vkey", format!("{vkey}\n").as_bytes());
    let old = file("old", sample.log.note(100).as_bytes());

    let good = run(&["receipt", &proof, "--vkey", &vkey, "--entry", &entry]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let good = run(&[
        "receipt", &proof, "--vkey", &vkey_file, "--entry", &entry, "--output", "json",
    ]);
    assert_eq!(json(&good)["index"], 18);
    let bad = run(&["receipt", &proof, "--vkey", &vkey, "--entry", &other]);
    assert_eq!(bad.status.code(), Some(1));
    let open = run(&["receipt", &proof, "--vkey", &vkey]);
    assert_eq!(
        open.status.code(),
        Some(2),
        "the receipt does not carry its entry"
    );

    let dir = sample.path().to_str().expect("text");
    let good = run(&[
        "verify",
        dir,
        "--vkey",
        &vkey,
        "--receipt",
        &proof,
        "--old-checkpoint",
        &old,
        "--output",
        "json",
    ]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let report = json(&good);
    assert_eq!(report["keys_pinned"], true);
    assert_eq!(report["stream"]["stream"], stream_id(18).to_string());
}

/// Writes a tree for a foreign verifier to the directory that the environment names, if any.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the peers' driver says where to write by the environment"
)]
fn a_tree_is_written_for_foreign_verifiers() {
    let Some(dir) = std::env::var_os("WAYMARK_EXPORT_DIR") else {
        return println!("WAYMARK_EXPORT_DIR is not set: nothing written");
    };
    let log = Log::honest(70_000);
    let exported = log.export(
        std::path::Path::new(&dir),
        &[1, 255, 256, 257, 65_536, 69_999],
    );
    assert_eq!(exported.size, 70_000);
}
