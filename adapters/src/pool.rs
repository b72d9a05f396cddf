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
    pub(crate) fn find(&self, endpoint: &Endpoint) -> Option<T> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&endpoint.id)?;
        let same = entry.made_from.settings == endpoint.settings
            && entry.made_from.agency == endpoint.agency;
        if same && entry.made_at.elapsed() < CONNECTION_AGE_MAX {
            return Some(entry.connection.clone());
        }
        entries.remove(&endpoint.id);
        None
    }

    /// Keeps a connection. When the pool is full everything is let go: it is made again as needed.
    pub(crate) fn keep(&self, endpoint: &Endpoint, connection: T) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= POOL_ENTRIES_MAX && !entries.contains_key(&endpoint.id) {
            entries.clear();
        }
        let made_from = endpoint.clone();
        entries.insert(endpoint.id.clone(), Entry { made_from, made_at: Instant::now(), connection });
    }

    /// Lets a connection go, because it failed.
    pub(crate) fn drop(&self, endpoint: &EndpointId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::sample;

    #[test]
    fn a_connection_serves_its_own_settings_alone() {
        let pool = Pool::default();
        let endpoint = sample::endpoint();
        pool.keep(&endpoint, 1);
        assert_eq!(pool.find(&endpoint), Some(1));
        let mut changed = endpoint.clone();
        changed.settings.insert("url".to_owned(), "https://other.example/".into());
        assert_eq!(pool.find(&changed), None);
        assert_eq!(pool.find(&endpoint), None, "what was made from old settings is gone");
        pool.keep(&endpoint, 2);
        pool.drop(&endpoint.id);
        assert_eq!(pool.find(&endpoint), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_is_not_used_again() {
        let pool = Pool::default();
        pool.keep(&sample::endpoint(), 1);
        tokio::time::advance(CONNECTION_AGE_MAX - std::time::Duration::from_millis(1)).await;
        assert_eq!(pool.find(&sample::endpoint()), Some(1));
        tokio::time::advance(std::time::Duration::from_millis(1)).await;
        assert_eq!(pool.find(&sample::endpoint()), None);
    }

    #[test]
    fn the_pool_never_holds_more_than_its_limit() {
        let pool = Pool::default();
        let mut endpoint = sample::endpoint();
        for i in 0..=POOL_ENTRIES_MAX {
            endpoint.id = format!("e{i}").parse().unwrap();
            pool.keep(&endpoint, i);
        }
        assert_eq!(pool.0.lock().unwrap().len(), 1);
    }
}
