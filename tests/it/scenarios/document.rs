//! A document is kept once, however often its answer was lost.

use waymark_proto::v1;
use waymark_tests::engine::Engine;
use waymark_tests::gateway::{Area, Child, Client, Gateway};

waymark_tests::both_engines! {
    the_same_upload_is_the_same_document_and_other_bytes_are_a_conflict,
}

async fn upload(
    client: &Client,
    request_id: &str,
    content: &[u8],
) -> Result<v1::UploadDocumentResponse, tonic::Status> {
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
    client
        .upload(request_id, "application/pdf", content, sha256.as_ref())
        .await
}

async fn the_same_upload_is_the_same_document_and_other_bytes_are_a_conflict(
    engine: Engine,
) -> anyhow::Result<()> {
    let gateway = Gateway::start(engine, &Area::default()).await?;
    let [school, team] = gateway.clients(["EE123456", "SPEC1"]).await?;
    let first = upload(&school, "report", b"a report").await?;
    let again = upload(&school, "report", b"a report").await?;
    assert!(!first.duplicate && again.duplicate);
    let document = first.document.expect("a document");
    assert_eq!(again.document.as_ref(), Some(&document));
    let refused = upload(&school, "report", b"another").await;
    assert_eq!(
        refused.expect_err("refused").code(),
        tonic::Code::AlreadyExists
    );
    let theirs = upload(&team, "report", b"a report").await?;
    assert!(!theirs.duplicate, "keys are each sender's own");
    let refused = upload(&school, "", b"a report").await;
    assert_eq!(
        refused.expect_err("refused").code(),
        tonic::Code::InvalidArgument
    );

    // An upload's key and a message's are apart, and a repeat after the document was taken is the same document.
    let mut content = Child(350).referral("specialist-teaching");
    if let Some(content) = content.as_object_mut() {
        content.insert("documents".to_owned(), serde_json::json!([document]));
    }
    school.submit("report", &content).await?;
    let taken = upload(&school, "report", b"a report").await?;
    assert_eq!(taken.document, Some(document));
    Ok(())
}
