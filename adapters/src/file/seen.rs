//! Since when a file stands where it is, as this process saw it. The time that a file bears is its writer's: a copy may
//! keep yesterday's, and a server's clock may be wrong.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use waymark_core::id::EndpointId;
use waymark_core::time::Timestamp;

use super::name::Name;
use super::place::{Entry, Sub};

/// The files of one folder, and when each was first seen.
pub(super) type Since = BTreeMap<Name, Timestamp>;

/// What was seen, folder by folder: as many names as a listing has at most.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<BTreeMap<(EndpointId, Sub), Since>>);

impl Seen {
    /// Notes what a folder holds now, and answers since when.
    pub(super) fn note(
        &self,
        endpoint: &EndpointId,
        sub: Sub,
        files: &[Entry],
        now: Timestamp,
    ) -> Since {
        let mut folders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (endpoint.clone(), sub);
        let before = folders.remove(&place).unwrap_or_default();
        let since = |name: &Name| before.get(name).copied().unwrap_or(now);
        let names = files.iter().map(|file| &file.name);
        let since: Since = names.map(|name| (name.clone(), since(name))).collect();
        if !since.is_empty() {
            folders.insert(place, since.clone());
        }
        since
    }
}
