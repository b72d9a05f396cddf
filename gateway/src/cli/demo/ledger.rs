//! What an agency took in, as the agency itself saw it: evidence of the demo's own, apart from the gateway's.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use waymark_core::delivery::Kind;
use waymark_core::referral::Referral;

/// Messages that one agency of the demo keeps.
const ARRIVALS_MAX: usize = 20_000;
/// Complaints that one agency of the demo keeps.
const FAULTS_MAX: usize = 100;

/// One message that arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// The id that every attempt carries.
    pub(super) wire_id: String,
    /// What it tells.
    pub(super) kind: Kind,
    /// The gateway's reference of the referral.
    pub(super) reference: String,
    /// The service that it is for; of a status, the service that reports.
    pub(super) service: String,
    /// The referral that it carries.
    pub(super) content: Option<Referral>,
}

/// Whether a message is new to an agency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is.
    First,
    /// It came before: a repeat changes nothing.
    Again,
}

/// Everything that one agency took in, in order, each wire id once.
#[derive(Debug)]
pub(super) struct Ledger {
    agency: &'static str,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    arrivals: Vec<Arrival>,
    digests: BTreeMap<String, Vec<u8>>,
    faults: Vec<String>,
}

impl Ledger {
    /// Opens an agency's ledger.
    pub(super) const fn new(agency: &'static str) -> Self {
        let inner = Inner {
            arrivals: Vec::new(),
            digests: BTreeMap::new(),
            faults: Vec::new(),
        };
        Self {
            agency,
            inner: Mutex::new(inner),
        }
    }

    /// Whose it is.
    pub(super) const fn agency(&self) -> &'static str {
        self.agency
    }

    /// Takes a message by its wire id. The same id with other bytes is a fault.
    pub(super) fn take(&self, arrival: Arrival, body: &[u8]) -> Taken {
        let body = digest(&SHA256, body).as_ref().to_vec();
        let mut inner = self.lock();
        match inner.digests.get(&arrival.wire_id) {
            Some(known) if *known == body => Taken::Again,
            Some(_) => {
                let fault = format!("{} came again with other content", arrival.wire_id);
                inner.complain(fault);
                Taken::Again
            }
            None if inner.arrivals.len() >= ARRIVALS_MAX => {
                inner.complain(format!("more than {ARRIVALS_MAX} messages"));
                Taken::Again
            }
            None => {
                inner.digests.insert(arrival.wire_id.clone(), body);
                inner.arrivals.push(arrival);
                Taken::First
            }
        }
    }

    /// Notes something that must not happen.
    pub(super) fn fault(&self, text: impl Into<String>) {
        self.lock().complain(text.into());
    }

    /// Everything that arrived, in order.
    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        self.lock().arrivals.clone()
    }

    /// What must not have happened, each with whose ledger says so.
    pub(super) fn faults(&self) -> Vec<String> {
        self.lock()
            .faults
            .iter()
            .map(|fault| format!("{}: {fault}", self.agency))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn complain(&mut self, text: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(wire_id: &str) -> Arrival {
        Arrival {
            wire_id: wire_id.to_owned(),
            kind: Kind::New,
            reference: "WM-A".to_owned(),
            service: "adhd".to_owned(),
            content: None,
        }
    }

    #[test]
    fn the_same_wire_id_is_kept_once_and_other_content_under_it_is_a_fault() {
        let ledger = Ledger::new("R1L");
        assert_eq!(ledger.take(arrival("WM1"), b"a"), Taken::First);
        assert_eq!(ledger.take(arrival("WM1"), b"a"), Taken::Again);
        assert_eq!(ledger.arrivals().len(), 1);
        assert_eq!(ledger.faults(), Vec::<String>::new());
        assert_eq!(ledger.take(arrival("WM1"), b"b"), Taken::Again);
        assert_eq!(ledger.faults(), ["R1L: WM1 came again with other content"]);
        assert_eq!(ledger.take(arrival("WM2"), b"b"), Taken::First);
    }

    #[test]
    fn a_ledger_keeps_no_more_than_its_bound() {
        let ledger = Ledger::new("R1L");
        for n in 0..ARRIVALS_MAX {
            assert_eq!(ledger.take(arrival(&format!("WM{n}")), b"a"), Taken::First);
        }
        assert_eq!(ledger.take(arrival("WMX"), b"a"), Taken::Again);
        assert_eq!(
            (ledger.arrivals().len(), ledger.faults().len()),
            (ARRIVALS_MAX, 1)
        );
    }
}
