//! What reading promises to an agency that took over another.

use waymark_core::id::ReferralId;
use waymark_core::port::{FeedQuery, LogStore as _, ReferralQuery, ReferralStore as _};

use super::fixture::{bench, ms};

#[tokio::test]
async fn whoever_took_over_an_agency_sees_the_cases_of_both_in_one_order() {
    let Some(bench) = bench().await else { return };
    let mut all: Vec<ReferralId> = Vec::new();
    for (child, sender, receiver) in [
        ("child 1", "EE100001", "RXX"),
        ("child 2", "EE200002", "RZZ"),
        ("child 3", "RZZ", "RYY"),
        ("child 4", "EE200002", "RYY"),
        ("child 5", "RXX", "RZZ"),
    ] {
        let mut draft = bench.draft(child, &["ep-a"]);
        draft.sender = sender.parse().unwrap();
        for leg in &mut draft.legs {
            leg.agency = receiver.parse().unwrap();
        }
        all.push(bench.accept(draft).await.referral);
    }
    let theirs = [all[4], all[2], all[1], all[0]];
    let agencies = || vec!["RZZ".parse().unwrap(), "RXX".parse().unwrap()];
    let ask = |before, limit| ReferralQuery {
        agencies: Some(agencies()),
        pathway: None,
        subject: None,
        before,
        limit,
    };
    let listed = async |query: ReferralQuery| -> Vec<ReferralId> {
        let views = bench.store.list(&query).await.unwrap();
        views.into_iter().map(|view| view.id).collect()
    };
    assert_eq!(listed(ask(None, 10)).await, theirs);
    assert_eq!(listed(ask(None, 3)).await, theirs[..3]);
    assert_eq!(listed(ask(Some(theirs[2]), 3)).await, theirs[3..]);
    let nobody = ReferralQuery {
        agencies: Some(Vec::new()),
        ..ask(None, 10)
    };
    assert!(listed(nobody).await.is_empty());

    let key = waymark_tlog::note::SigningKey::from_seed("waymark.test/log", [9; 32]).unwrap();
    bench.store.sequence(&key, 100, ms(2)).await.unwrap();
    let feed = FeedQuery {
        agencies: agencies(),
        from: 0,
        window: 100,
    };
    let page = bench.store.feed(&feed).await.unwrap();
    let mut fed: Vec<ReferralId> = page.events.iter().map(|e| e.referral).collect();
    fed.reverse();
    assert_eq!(fed, theirs);
}
