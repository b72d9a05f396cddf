//! What mailbox streams of this process have lent: each loan takes one credit of its stream until it is answered or ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use waymark_core::id::DeliveryId;
use waymark_core::time::Timestamp;

/// Loans of every stream of this process.
#[derive(Debug, Default)]
pub(in super::super) struct Loans {
    lent: Mutex<BTreeMap<(DeliveryId, i64), Lent>>,
}

#[derive(Debug)]
struct Lent {
    until: Timestamp,
    /// Of which stream; a loan's credit goes back to it when this is dropped.
    credit: Credit,
    _taken: OwnedSemaphorePermit,
}

/// The credit of one stream.
#[derive(Clone, Debug)]
pub(super) struct Credit(Arc<Semaphore>);

impl Credit {
    pub(super) fn new(credit: u32) -> Self {
        Self(Arc::new(Semaphore::new(
            usize::try_from(credit).unwrap_or(0),
        )))
    }

    /// Deliveries that may be lent now.
    pub(super) fn left(&self) -> u32 {
        u32::try_from(self.0.available_permits()).unwrap_or(u32::MAX)
    }

    /// Waits until something may be lent.
    pub(super) async fn any(&self) {
        // Never closed; were it so, there would be nothing to wait for either.
        drop(self.0.acquire().await);
    }
}

impl Loans {
    /// Notes a loan; whether the stream's credit allowed it.
    pub(super) fn lend(
        &self,
        credit: &Credit,
        delivery: DeliveryId,
        fence: i64,
        until: Timestamp,
    ) -> bool {
        let Ok(taken) = Arc::clone(&credit.0).try_acquire_owned() else {
            return false;
        };
        let lent = Lent {
            until,
            credit: credit.clone(),
            _taken: taken,
        };
        self.held().insert((delivery, fence), lent);
        true
    }

    /// Notes that a loan was answered: its stream may lend another.
    pub(super) fn answered(&self, delivery: DeliveryId, fence: i64) {
        self.held().remove(&(delivery, fence));
    }

    /// Forgets a stream's loans that have ended.
    pub(super) fn expire(&self, credit: &Credit, now: Timestamp) {
        self.held()
            .retain(|_, lent| lent.until > now || !Arc::ptr_eq(&lent.credit.0, &credit.0));
    }

    /// Forgets a stream's loans: the leases stand, and their answers are taken as before.
    pub(super) fn forget(&self, credit: &Credit) {
        self.held()
            .retain(|_, lent| !Arc::ptr_eq(&lent.credit.0, &credit.0));
    }

    /// The loans of a stream that end first.
    pub(super) fn oldest(&self, credit: &Credit, most: usize) -> Vec<(DeliveryId, i64)> {
        let held = self.held();
        let own = held
            .iter()
            .filter(|(_, lent)| Arc::ptr_eq(&lent.credit.0, &credit.0));
        let mut loans: Vec<_> = own.map(|(loan, lent)| (lent.until, *loan)).collect();
        loans.sort_unstable();
        loans.into_iter().take(most).map(|(_, loan)| loan).collect()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<(DeliveryId, i64), Lent>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> DeliveryId {
        DeliveryId::from_bytes([n; 16])
    }

    const fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    #[test]
    fn an_answer_frees_one_credit_of_its_own_stream() {
        let (loans, one, other) = (Loans::default(), Credit::new(1), Credit::new(1));
        assert!(loans.lend(&one, id(1), 1, at(10)));
        assert!(loans.lend(&other, id(2), 1, at(10)));
        assert!(!loans.lend(&one, id(3), 1, at(10)), "no credit is left");
        loans.answered(id(1), 2);
        assert_eq!(
            one.left(),
            0,
            "another loan of the same delivery was answered"
        );
        loans.answered(id(1), 1);
        assert_eq!((one.left(), other.left()), (1, 0));
    }

    #[test]
    fn an_ended_loan_frees_its_credit() {
        let (loans, one, other) = (Loans::default(), Credit::new(2), Credit::new(1));
        for (delivery, until) in [(id(1), at(10)), (id(2), at(11))] {
            assert!(loans.lend(&one, delivery, 1, until));
        }
        assert!(loans.lend(&other, id(3), 1, at(10)));
        assert_eq!(loans.oldest(&one, 1), [(id(1), 1)]);
        loans.expire(&one, at(10));
        assert_eq!((one.left(), other.left()), (1, 0));
    }

    #[test]
    fn a_stream_that_ends_leaves_nothing_behind() {
        let (loans, one) = (Loans::default(), Credit::new(2));
        assert!(loans.lend(&one, id(1), 1, at(10)));
        loans.forget(&one);
        assert!(loans.held().is_empty());
        assert_eq!(one.left(), 2);
    }
}
