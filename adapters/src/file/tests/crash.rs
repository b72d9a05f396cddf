//! A crash while a message is written: what is there of it is no message, and the next attempt completes it.

use std::collections::BTreeMap;

use super::*;

fn outbox(ground: &Ground) -> BTreeMap<String, Vec<u8>> {
    let folder = ground.folder().join("outbox");
    let read = |name: String| (name.clone(), fs::read(folder.join(name)).unwrap());
    names(&folder).into_iter().map(read).collect()
}

#[tokio::test]
async fn however_far_the_files_came_nobody_reads_half_and_the_next_attempt_completes_them() {
    let mut source = sample::source(Kind::New);
    let document = source.content.as_ref().unwrap().documents[0].clone();
    source.attachments = vec![Attachment {
        document,
        bytes: Payload::new(b"%PDF-1.7 and so on".to_vec()),
    }];
    let id = source.wire_id.as_str();
    // In the order in which they are written.
    let order = [
        format!("{id}.json"),
        format!("{id}-d1.pdf"),
        format!("{id}.manifest.json"),
    ];
    for whole in 0..order.len() {
        let ground = Ground::new();
        deliver(&ground, &source, "").await;
        let written = outbox(&ground);
        assert_eq!(written.len(), 3);
        // As a crash leaves it: some files whole, the next in part, and nothing of the rest.
        let folder = ground.folder().join("outbox");
        for (at, name) in order.iter().enumerate().skip(whole) {
            fs::remove_file(folder.join(name)).unwrap();
            let half = &written[name][..written[name].len() / 2];
            if at == whole {
                fs::write(folder.join(format!("{name}.part")), half).unwrap();
            }
        }
        for (name, bytes) in outbox(&ground) {
            let readable = !name.ends_with(place::PART_SUFFIX);
            assert!(!name.ends_with(MANIFEST_SUFFIX), "nobody begins to read");
            assert!(!readable || bytes == written[&name], "{name} is whole");
        }
        let again = deliver(&ground, &source, "").await;
        let sent = matches!(&again, Outcome::Delivered { grade, .. } if *grade == Evidence::Sent);
        assert!(sent, "{again:?}");
        assert_eq!(outbox(&ground), written, "{whole} were whole");
    }
}
