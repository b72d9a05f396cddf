//! What is not whole waits, by the time that we have seen it; what was rejected is read once, whatever lies beside it.

use super::*;

impl Ground {
    /// An adapter that has never looked, so much later than the ground was made.
    fn unseeing(&self, later: Duration) -> FileDrop {
        FileDrop {
            clock: Arc::new(Ahead(self.made().plus(later))),
            ..self.adapter()
        }
    }

    /// The adapter, so much later than the ground was made and the adapter looked.
    pub(super) fn after(&self, later: Duration) -> FileDrop {
        let adapter = self.unseeing(later);
        for sub in [Sub::Inbox, Sub::Receipts, Sub::Rejected] {
            let there = fs::read_dir(self.folder().join(sub.as_str()))
                .into_iter()
                .flatten();
            let entry = |file: std::io::Result<fs::DirEntry>| {
                let name = file.unwrap().file_name();
                let name = Name::parse(name.to_str()?).ok()?;
                Some(place::Entry {
                    name,
                    size: 0,
                    modified: self.made(),
                })
            };
            let files: Vec<_> = there.filter_map(entry).collect();
            let endpoint = endpoint(SETTINGS).id;
            adapter.seen.note(&endpoint, sub, &files, self.made());
        }
        adapter
    }

    fn made(&self) -> Timestamp {
        let made = fs::metadata(self.folder()).unwrap().modified().unwrap();
        let since = made.duration_since(std::time::SystemTime::UNIX_EPOCH);
        Timestamp::from_ms(i64::try_from(since.unwrap().as_millis()).unwrap())
    }

    /// Late enough for everything incomplete to be old, and for nothing to have been kept too long.
    pub(super) fn late_adapter(&self) -> FileDrop {
        self.after(Duration::from_hours(48))
    }
}

fn written(path: &Path, at: std::time::SystemTime) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(at).unwrap();
}

#[tokio::test]
async fn a_copy_that_keeps_yesterdays_time_waits_as_long_as_any() {
    let ground = Ground::new();
    ground.leave("inbox", "R1.data", "half a message");
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_hours(1);
    written(&ground.folder().join("inbox/R1.data"), long_ago);
    let unseeing = ground.unseeing(Duration::from_hours(48));
    for _ in 0..2 {
        ground.collect(&unseeing, "").await;
        assert_eq!(ground.names("inbox"), ["R1.data"]);
    }
    ground.collect(&ground.late_adapter(), "").await;
    assert_eq!(ground.names("inbox"), Vec::<String>::new());
    assert_eq!(ground.names("failed"), ["R1.data", "R1.data.error.json"]);
}

#[tokio::test]
async fn of_a_folder_with_more_files_than_are_listed_nothing_is_set_aside_and_somebody_is_told() {
    let ground = Ground::new();
    for n in 1..inbox::LISTED_FILES_MAX {
        ground.leave("inbox", &format!("R{n}.data"), "");
    }
    ground.leave("inbox", "last.data", "");
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!(collected.stopped, None, "as many as are listed");
    ground.leave("inbox", "more.data", "");
    let collected = ground.collect(&ground.late_adapter(), "").await;
    let why = collected.stopped.map(|why| why.code);
    assert_eq!(why.as_deref(), Some("file.crowded"));
    assert_eq!(ground.names("failed"), Vec::<String>::new());
}

#[tokio::test]
async fn a_backlog_is_taken_oldest_first_and_none_of_its_files_is_taken_for_a_lone_one() {
    let ground = Ground::new();
    let more = inbox::ROUND_MESSAGES_MAX + 10;
    for n in 0..more {
        ground.leave_message(&format!("R{n}"), "new", "canonical", &canonical(), &[]);
    }
    // One that waits for its data keeps none of the others waiting.
    ground.leave_message("A0", "new", "canonical", &canonical(), &[]);
    fs::remove_file(ground.folder().join("inbox/A0.data")).unwrap();
    let mut taken = Vec::new();
    for _ in 0..2 {
        let collected = ground
            .collect(&ground.adapter(), "bare_csv_after_s = 1")
            .await;
        taken.push(collected.taken);
    }
    assert_eq!(taken, [50, 10]);
    assert_eq!(ground.names("failed"), Vec::<String>::new());
    assert_eq!(ground.names("inbox"), ["A0.manifest.json"]);
}

#[tokio::test]
async fn a_refusal_is_read_where_there_is_one_and_the_messages_own_files_go_with_it() {
    let ground = Ground::new();
    for file in ["WM1.json", "WM1.manifest.json"] {
        ground.leave("rejected", file, "{}");
    }
    ground.leave("rejected", "WM1.rejected.json", r#"{"code": "NOT_OURS"}"#);
    let long = vec![b' '; usize::try_from(outbox::NOTE_BYTES_MAX).unwrap() + 1];
    ground.leave("rejected", "WM2.rejected.json", long);
    ground.leave_message("R1", "new", "canonical", &canonical(), &[]);
    let collected = ground.collect(&ground.adapter(), "").await;
    assert_eq!((collected.taken, collected.stopped), (3, None));
    let whys = ground
        .taken()
        .into_iter()
        .filter_map(|message| match message.body {
            InboundBody::Undelivered(news) => Some((news.answers, news.why.text)),
            _ => None,
        });
    let whys: Vec<_> = whys.collect();
    assert_eq!(whys[0].0, "WM1");
    assert!(whys[0].1.contains("NOT_OURS"), "{whys:?}");
    assert_eq!((whys.len(), &*whys[1].0), (2, "WM2"));
    assert_eq!(ground.names("rejected"), Vec::<String>::new());
}
