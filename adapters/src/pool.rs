//! Connections kept between attempts, by endpoint and by the settings they were made from.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;
use waymark_core::directory::Endpoint;
use waymark_core::id::EndpointId;

use crate::limits::{CONNECTION_AGE_MAX, POOL_ENTRIES_MAX};

/// One connection per endpoint. It holds nothing of messages.
pub(crate) struct Pool<T>(Mutex<BTreeMap<EndpointId, Entry<T>>>);

struct Entry<T> {
    made_from: Endpoint,
    made_at: Instant,
    connection: T,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Pool<T> {
    /// The connection of an endpoint, unless its settings or agency changed or it has grown old.
    pub(crate) fn find(&self, endpoint: &Endpoint, now: Instant) -> Option<T> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&endpoint.id)?;
        let same = entry.made_from.settings == endpoint.settings
            && entry.made_from.agency == endpoint.agency;
        if same && now.saturating_duration_since(entry.made_at) < CONNECTION_AGE_MAX {
            return Some(entry.connection.clone());
        }
        entries.remove(&endpoint.id);
        None
    }

    /// Keeps a connection. When the pool is full everything is let go: it is made again as needed.
    pub(crate) fn keep(&self, endpoint: &Endpoint, connection: T, now: Instant) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= POOL_ENTRIES_MAX && !entries.contains_key(&endpoint.id) {
            entries.clear();
        }
        let made_from = endpoint.clone();
        entries.insert(
            endpoint.id.clone(),
            Entry {
                made_from,
                made_at: now,
                connection,
            },
        );
    }

    /// Lets a connection go, because it failed.
    pub(crate) fn drop(&self, endpoint: &EndpointId) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::contract::sample;

    #[test]
    fn a_connection_serves_its_own_settings_alone() {
        let (pool, now) = (Pool::default(), Instant::now());
        let endpoint = sample::endpoint();
        pool.keep(&endpoint, 1, now);
        assert_eq!(pool.find(&endpoint, now), Some(1));
        let mut changed = endpoint.clone();
        changed
            .settings
            .insert("url".to_owned(), "https://other.example/".into());
        assert_eq!(pool.find(&changed, now), None);
        assert_eq!(
            pool.find(&endpoint, now),
            None,
            "what was made from old settings is gone"
        );
        pool.keep(&endpoint, 2, now);
        pool.drop(&endpoint.id);
        assert_eq!(pool.find(&endpoint, now), None);
    }

    #[test]
    fn an_old_connection_is_not_used_again() {
        let (pool, now) = (Pool::default(), Instant::now());
        pool.keep(&sample::endpoint(), 1, now);
        let old = now + CONNECTION_AGE_MAX;
        assert_eq!(
            pool.find(&sample::endpoint(), old - Duration::from_millis(1)),
            Some(1)
        );
        assert_eq!(pool.find(&sample::endpoint(), old), None);
    }

    #[test]
    fn the_pool_never_holds_more_than_its_limit() {
        let (pool, now) = (Pool::default(), Instant::now());
        let mut endpoint = sample::endpoint();
        for i in 0..POOL_ENTRIES_MAX {
            endpoint.id = format!("e{i}").parse().unwrap();
            pool.keep(&endpoint, i, now);
        }
        assert_eq!(pool.0.lock().unwrap().len(), POOL_ENTRIES_MAX);
        endpoint.id = "one-more".parse().unwrap();
        pool.keep(&endpoint, 0, now);
        assert_eq!(pool.0.lock().unwrap().len(), 1);
    }
}
