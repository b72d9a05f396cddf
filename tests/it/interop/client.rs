//! A gRPC client in Python, made from the .proto files alone, and two foreign verifiers of what it downloads.

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde_json::Value;
use waymark_proto::v1;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Gateway};
use waymark_tests::peer::{Said, bytes, run, text};

use super::shown;

/// Items of the long stream.
const STREAM_ITEMS: usize = 1_000;

/// Runs the client as the school.
async fn school(gateway: &Gateway, args: &[&str]) -> anyhow::Result<Said> {
    let target = gateway.app()?.grpc.expect("a gRPC listener").to_string();
    let folder = gateway
        .deployment
        .clients
        .get("EE123456")
        .expect("the school's client");
    let (ca, cert) = (
        shown(&gateway.deployment.ca),
        shown(&folder.join("cert.pem")),
    );
    let key = shown(&folder.join("key.pem"));
    let own = [
        "--target",
        &target,
        "--ca",
        &ca,
        "--cert",
        &cert,
        "--key",
        &key,
        "--timeout",
        "150",
    ];
    run("grpc_client.py", &[&own[..], args].concat()).await
}

fn succeeded(said: &Said) -> anyhow::Result<Value> {
    assert!(said.ok, "{}{}", said.out, said.errors);
    said.json()
}

/// Checks in the contract's own words that an opening opens a commitment of an entry.
fn opens(opening: &Value, entry: &[u8]) -> anyhow::Result<()> {
    let (salt, content) = (bytes(opening, "salt")?, bytes(opening, "content")?);
    assert!(
        !content.is_empty(),
        "a proof was asked for, so the content comes along"
    );
    let tag = v1::CommitmentTag::from_str_name(text(opening, "tag")).context("a known tag")?;
    let tag = [u8::try_from(i32::from(tag))?];
    let input = [b"waymark/commit/v1\0".as_slice(), &tag, &salt, &content].concat();
    let commitment = digest(&SHA256, &input);
    assert!(
        entry
            .windows(SHA256_OUTPUT_LEN)
            .any(|part| part == commitment.as_ref()),
        "the entry commits to it"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_submits_watches_and_gets_a_receipt_that_foreign_verifiers_accept()
-> anyhow::Result<()> {
    let gateway = Gateway::start(Engine::Sqlite, &Area::default()).await?;
    assert_eq!(
        succeeded(&school(&gateway, &["health"]).await?)?["status"],
        "SERVING"
    );
    let folder = tempfile::tempdir()?;
    let at = |name: &str| shown(&folder.path().join(name));
    let (file, proof, entry) = (at("referral.json"), at("receipt.tlog-proof"), at("entry"));
    std::fs::write(
        &file,
        Child(240).referral("specialist-teaching").to_string(),
    )?;
    let submit = [
        "submit",
        &file,
        "--request-id",
        "from-python",
        "--want-proof",
    ];
    let taken = succeeded(&school(&gateway, &submit).await?)?;
    let referral = taken["receipt"]["referral_id"]
        .as_str()
        .expect("a referral id")
        .to_owned();
    // The same message again gets the same receipt.
    let again = succeeded(&school(&gateway, &submit).await?)?;
    for field in ["referral_id", "event_id", "leaf_hash"] {
        assert_eq!(again["receipt"][field], taken["receipt"][field]);
    }

    let watched = school(
        &gateway,
        &["watch", "--count", "1", "--referral-id", &referral],
    )
    .await?;
    assert_eq!(succeeded(&watched)?["events"], 1);
    let event = watched
        .out
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .find(|l| l["event"].is_object());
    assert_eq!(
        event.expect("an event")["event"]["referral_id"],
        referral.as_str()
    );

    let asked = [
        "receipt",
        "--request-id",
        "from-python",
        "--proof",
        &proof,
        "--entry",
        &entry,
    ];
    let receipt = succeeded(&school(&gateway, &asked).await?)?;
    assert_eq!(receipt["checks"]["leaf_hash_matches"], true);
    assert_eq!(
        receipt["receipt"]["openings"][0]["salt"],
        taken["receipt"]["openings"][0]["salt"]
    );
    opens(&taken["receipt"]["openings"][0], &std::fs::read(&entry)?)?;

    // A message key is its sender's own, and one of nobody has no receipt.
    let none = school(&gateway, &["receipt", "--request-id", "from-nobody"]).await?;
    assert_eq!(
        (none.ok, &none.json()?["code"]),
        (false, &"NOT_FOUND".into())
    );

    let said = run("verify_proof.sh", &[&proof, &entry, &gateway.vkey]).await?;
    assert!(said.ok, "proofbundle: {}{}", said.out, said.errors);
    let go = ["-vkey", &gateway.vkey, "-proof", &proof, "-entry", &entry];
    let said = run("sumdb", &go).await?;
    assert!(said.ok, "sumdb: {}{}", said.out, said.errors);

    // Neither is a rubber stamp.
    let mut bytes = std::fs::read(&entry)?;
    *bytes.last_mut().expect("an entry") ^= 1;
    std::fs::write(&entry, bytes)?;
    assert!(
        !run("verify_proof.sh", &[&proof, &entry, &gateway.vkey])
            .await?
            .ok,
        "proofbundle sees a changed entry"
    );
    assert!(!run("sumdb", &go).await?.ok, "sumdb sees a changed entry");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_streams_a_thousand_and_go_accepts_the_exported_tree() -> anyhow::Result<()>
{
    let gateway = Gateway::start(Engine::Sqlite, &Area::default()).await?;
    let folder = tempfile::tempdir()?;
    let file = shown(&folder.path().join("template.json"));
    let mut template = Child(241).referral("specialist-teaching");
    template["child"]["nhsNumber"] = "{nhs}".into();
    template["child"]["name"]["given"] = "Wren {n}".into();
    // A UPN of its own has no place in the template, and one for all would be a conflict.
    template["child"]
        .as_object_mut()
        .expect("a child")
        .remove("upn");
    std::fs::write(&file, template.to_string())?;
    let said = school(&gateway, &["stream", &STREAM_ITEMS.to_string(), &file]).await?;
    let result = succeeded(&said)?;
    assert_eq!(result["accepted"], STREAM_ITEMS, "{result}");
    assert_eq!(result["distinct_referrals"], STREAM_ITEMS);

    let tree = shown(&gateway.export(folder.path()).await?);
    let said = run("sumdb", &["-vkey", &gateway.vkey, &tree]).await?;
    assert!(said.ok, "{}{}", said.out, said.errors);
    assert!(
        said.out.contains("ok: waymark/test/southmere"),
        "{}",
        said.out
    );
    // A changed byte is seen.
    let bundle = folder.path().join("tree/tile/entries/000");
    let mut bytes = std::fs::read(&bundle)?;
    bytes[100] ^= 1;
    std::fs::write(&bundle, bytes)?;
    assert!(!run("sumdb", &["-vkey", &gateway.vkey, &tree]).await?.ok);
    Ok(())
}
