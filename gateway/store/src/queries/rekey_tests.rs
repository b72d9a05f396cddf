//! Keys of children, from one epoch of the keyring to the next.

use futures::future::join_all;
use waymark_core::audit::EntryKind;
use waymark_core::directory::Environment;
use waymark_core::id::ReferralId;
use waymark_core::port::{KeyEpoch, LogStore as _, ReferralStore as _, UpkeepStore as _};

use super::Backend;
use super::fixture::{Bench, bench, ms, url as database};
use super::rekey::PAGE;
use super::start::start;
use crate::open::{Mode, OpenError, OpenOptions, Schema};
use crate::seal::{Keyring, Seal};

const KEY: [&str; 2] = [
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100",
];

fn keyring(epochs: &[u32]) -> Keyring {
    let keks: Vec<String> = epochs
        .iter()
        .map(|epoch| {
            let key = KEY[usize::try_from(epoch % 2).unwrap()];
            format!("kek {epoch} {key}\n")
        })
        .collect();
    let text = format!("waymark-keyring v1\nindex {}\n{}", KEY[0], keks.concat());
    Keyring::parse(&text).unwrap()
}

async fn opened(url: &str, epochs: &[u32]) -> Result<Backend, OpenError> {
    let options = OpenOptions {
        url: url.to_owned(),
        keyring: keyring(epochs),
        environment: Environment::Test,
        mode: Mode::Write,
        schema: Schema::Migrate,
        now: ms(0),
        free_disk_min: 0,
    };
    let seal = Seal::new(&options.keyring).unwrap();
    start(&options, seal).await
}

async fn accepted(store: &Backend, bench: &Bench, children: usize) -> Vec<ReferralId> {
    let sent = (0..children).map(|n| store.accept(bench.draft(&format!("9{n:09}"), &["ep-a"])));
    let answers = join_all(sent).await;
    answers.into_iter().map(|a| a.unwrap().referral).collect()
}

/// Whether the content of a referral can be read.
async fn readable(store: &Backend, bench: &Bench, id: ReferralId) -> bool {
    let view = store.referral(id).await.unwrap().unwrap();
    let entry = bench.entry(EntryKind::AdminRead, view.stream, ms(9));
    store
        .read_body(view.content, entry)
        .await
        .unwrap()
        .is_some()
}

#[tokio::test]
async fn keys_of_an_older_epoch_are_wrapped_anew_until_it_can_be_destroyed() {
    let Some((url, _dir)) = database().await else {
        return;
    };
    let bench = bench().await.unwrap();
    let store = opened(&url, &[1]).await.unwrap();
    // One more than a page: the walk goes on where it was.
    let children = PAGE + 1;
    let referrals = accepted(&store, &bench, children).await;
    let all = u64::try_from(children).unwrap();
    let before = store.key_epochs().await.unwrap();
    assert_eq!(before.in_use, 1);
    let wraps = |epoch| {
        [KeyEpoch {
            epoch,
            subjects: all,
        }]
    };
    assert_eq!(before.epochs, wraps(1));
    drop(store);

    let store = opened(&url, &[1, 2]).await.unwrap();
    assert_eq!(store.key_epochs().await.unwrap().epochs, wraps(1));
    store.upkeep(ms(1)).await.unwrap();
    assert_eq!(store.key_epochs().await.unwrap().epochs, wraps(2));
    // Nothing is wrapped a second time.
    store.upkeep(ms(2)).await.unwrap();
    drop(store);

    let store = opened(&url, &[2]).await.unwrap();
    for id in [referrals[0], referrals[PAGE]] {
        assert!(readable(&store, &bench, id).await);
    }
}

#[tokio::test]
async fn a_new_epoch_is_noted_in_the_log_once_and_an_older_keyring_is_refused_from_then_on() {
    let Some((url, _dir)) = database().await else {
        return;
    };
    let bench = bench().await.unwrap();
    let stream = bench.draft("9434765919", &["ep-a"]).entry.stream;
    let entry = || bench.entry(EntryKind::AdminAction, stream, ms(1));
    let first = opened(&url, &[1]).await.unwrap();
    assert!(
        !first.take_key_epoch(entry()).await.unwrap(),
        "the first is no change"
    );
    drop(first);
    let store = opened(&url, &[1, 2]).await.unwrap();
    assert_eq!(store.key_epochs().await.unwrap().in_use, 1);
    let noted = entry();
    let event = noted.event;
    assert!(store.take_key_epoch(noted).await.unwrap());
    assert!(!store.take_key_epoch(entry()).await.unwrap());
    assert_eq!(store.key_epochs().await.unwrap().in_use, 2);
    assert!(store.entry_of(event).await.unwrap().is_some());
    drop(store);
    let refused = opened(&url, &[1]).await.map(drop).unwrap_err();
    assert!(
        matches!(&refused, OpenError::KeyringOlder { found, asked: 1 } if found == "2"),
        "{refused:?}"
    );
}
