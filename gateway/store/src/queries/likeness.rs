//! Children whose records are alike: noted for a person to look at, never matched (ruling 1).

use std::collections::BTreeMap;

use waymark_core::alarm::NewAlarm;
use waymark_core::id::SubjectId;
use waymark_core::port::{Likeness, StoreError};
use waymark_core::time::Timestamp;

use super::accept::Item;
use super::insert::{insert, select_in};
use super::row::Fields;
use super::write::Write;
use crate::seal::{Seal, Subject};

/// One keyed hash that a record is compared by: its kind in `subject_key`, where nothing is looked up by it.
pub(super) type Trait = (&'static str, [u8; 32]);

const NAME: &str = "like_name";
const UPN: &str = "like_upn";

const NOTE: (&str, &str) = (
    "INSERT INTO subject_key (kind, hash, subject_id)",
    "ON CONFLICT (kind, hash) DO NOTHING RETURNING kind, hash",
);
const NOTED_NAME: (&str, &str) = (
    "SELECT kind, hash, subject_id FROM subject_key WHERE kind = 'like_name' AND hash IN",
    "",
);
const NOTED_UPN: (&str, &str) = (
    "SELECT kind, hash, subject_id FROM subject_key WHERE kind = 'like_upn' AND hash IN",
    "",
);

/// The keyed hashes of a likeness.
pub(super) fn traits(seal: &Seal, likeness: Option<&Likeness>) -> Vec<Trait> {
    let Some(likeness) = likeness else {
        return Vec::new();
    };
    let name = likeness.name_and_birth.expose().as_bytes();
    let upn = likeness.upn_and_birth.as_ref();
    let upn = upn.map(|upn| seal.keyed("subject_key.like_upn", &[upn.expose().as_bytes()]));
    [(NAME, seal.keyed("subject_key.like_name", &[name]))]
        .into_iter()
        .chain(upn.map(|hash| (UPN, hash)))
        .collect()
}

/// Notes what the children of these items are like, and answers the alarms of those that are like another child.
///
/// The keys are taken in one order and after those that match, so that no two transactions wait for each other.
pub(super) async fn doubted<'a>(
    w: &mut Write,
    pairs: &[(&'a Item, &Subject)],
) -> Result<Vec<(&'a NewAlarm, Timestamp)>, StoreError> {
    let mut noted: BTreeMap<Trait, SubjectId> = BTreeMap::new();
    for (item, subject) in pairs {
        for one in &item.likeness {
            noted.entry(*one).or_insert(subject.id);
        }
    }
    let rows: Vec<(Trait, SubjectId)> = noted.iter().map(|(key, id)| (*key, *id)).collect();
    let fresh = insert(w.conn(), NOTE, &rows, |row, ((kind, hash), id)| {
        row.push_bind(*kind)
            .push_bind(hash.as_slice())
            .push_bind(id.as_bytes().as_slice());
    })
    .await?;
    if fresh.len() < rows.len() {
        for (kind, select) in [(NAME, NOTED_NAME), (UPN, NOTED_UPN)] {
            let keys = rows.iter().filter(|((of, _), _)| *of == kind);
            let hashes: Vec<[u8; 32]> = keys.map(|((_, hash), _)| *hash).collect();
            for row in select_in(w.conn(), select, &hashes).await? {
                let row = Fields::new(&row, "subject_key", "hash");
                let owner = row.id("subject_id", SubjectId::from_bytes)?;
                noted.insert((kind, row.fixed::<32>("hash")?), owner);
            }
        }
    }
    let alike = |(item, subject): &&(&'a Item, &Subject)| {
        let of_another = |key: &Trait| noted.get(key).is_some_and(|owner| *owner != subject.id);
        item.likeness.iter().any(of_another)
    };
    let alarmed = pairs.iter().filter(alike).filter_map(|(item, _)| {
        let likeness = item.accept.likeness.as_ref()?;
        Some((&likeness.alarm, item.accept.at))
    });
    Ok(alarmed.collect())
}
