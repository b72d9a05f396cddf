//! Reading referrals: state and timeline by relationship, content only with its entry in the log.

use waymark_core::access::{Action, Principal, Relationship, permit};
use waymark_core::audit::EntryKind;
use waymark_core::error::ErrorKind;
use waymark_core::id::{BodyId, Pathway, ReferralId};
use waymark_core::identifier::{NhsNumber, Upn};
use waymark_core::personal::Personal;
use waymark_core::port::{EventView, FeedPage, FeedQuery, ReferralQuery, ReferralView, SubjectKey};
use waymark_core::referral::Referral;
use waymark_core::routing::{Explanation, Facts, explain};

use super::{Key, Service, ServiceError};

/// Items on one page.
pub const PAGE_MAX: u32 = 200;
/// Events of one referral shown at once.
pub(super) const TIMELINE_MAX: u32 = 1_000;
/// Log entries looked at for one window of a feed.
const FEED_WINDOW: u32 = 1_000;
/// Characters in a purpose.
const PURPOSE_MAX: usize = 64;

/// Which referrals to list.
#[derive(Clone, Debug, Default)]
pub struct ListAsk {
    /// Of this pathway.
    pub pathway: Option<Pathway>,
    /// Of the child with this verified NHS number.
    pub nhs_number: Option<NhsNumber>,
    /// Of the child with this UPN and date of birth.
    pub upn_and_birth: Option<(Upn, jiff::civil::Date)>,
    /// Before this one.
    pub before: Option<ReferralId>,
    /// At most; 0 means the default.
    pub limit: u32,
}

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What the caller may see of it, newest first.
    pub referrals: Vec<ReferralView>,
    /// Where the list goes on, when it does.
    pub more: Option<ReferralId>,
}

impl Service {
    /// A referral's state, legs and deliveries.
    ///
    /// # Errors
    /// `NotFound` for a stranger, as for a referral that is not there.
    pub async fn referral(
        &self,
        caller: &Principal,
        key: &Key,
    ) -> Result<ReferralView, ServiceError> {
        Ok(self.find(caller, key, Action::ReadReferral).await?.0)
    }

    /// A referral's content. The read is in the log before the first byte is.
    ///
    /// # Errors
    /// As [`Service::referral`].
    pub async fn content(
        &self,
        caller: &Principal,
        key: &Key,
        purpose: &str,
    ) -> Result<Referral, ServiceError> {
        let (view, permit) = self.find(caller, key, Action::ReadBody).await?;
        let entry = self.read_entry(permit.principal(), view.stream, "referral", purpose)?;
        let bytes = self.parts.store.read_body(view.content, entry).await?;
        let bytes =
            bytes.ok_or_else(|| ServiceError::new(ErrorKind::NotFound, "CONTENT_ERASED"))?;
        Referral::from_canonical(bytes.expose()).map_err(|e| ServiceError {
            cause: Some(Box::new(e)),
            ..ServiceError::new(ErrorKind::Corrupt, "STORED_DATA_CORRUPT")
        })
    }

    /// The words that a status came with. The read is in the log before they are.
    ///
    /// # Errors
    /// As [`Service::referral`].
    pub async fn words(
        &self,
        caller: &Principal,
        referral: ReferralId,
        body: BodyId,
        purpose: &str,
    ) -> Result<Option<Personal<String>>, ServiceError> {
        let (view, permit) = self
            .find(caller, &Key::Id(referral), Action::ReadBody)
            .await?;
        let entry = self.read_entry(permit.principal(), view.stream, "status", purpose)?;
        let Some(bytes) = self.parts.store.read_body(body, entry).await? else {
            return Ok(None);
        };
        serde_json::from_slice(bytes.expose())
            .map(Some)
            .map_err(|e| ServiceError {
                cause: Some(Box::new(e)),
                ..ServiceError::new(ErrorKind::Corrupt, "STORED_DATA_CORRUPT")
            })
    }

    /// The entry of a read.
    pub(super) fn read_entry(
        &self,
        reader: &Principal,
        stream: waymark_core::id::StreamId,
        what: &str,
        purpose: &str,
    ) -> Result<waymark_core::audit::EntryDraft, ServiceError> {
        let ok = !purpose.is_empty()
            && purpose.len() <= PURPOSE_MAX
            && purpose
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !ok {
            return Err(ServiceError::field(
                "purpose",
                "say why the content is read, e.g. DIRECT_CARE",
            ));
        }
        Ok(self
            .drafter()
            .entry(EntryKind::AdminRead, stream, reader, self.now())
            .code("read", what)
            .code("purpose", purpose))
    }

    /// A referral's events.
    ///
    /// # Errors
    /// As [`Service::referral`].
    pub async fn timeline(
        &self,
        caller: &Principal,
        key: &Key,
    ) -> Result<Vec<EventView>, ServiceError> {
        let (view, _permit) = self.find(caller, key, Action::ReadReferral).await?;
        Ok(self.parts.store.timeline(view.id, TIMELINE_MAX).await?)
    }

    /// Referrals that the caller's agency, or one that it took over, sent or receives; all of the area for an administrator or auditor.
    ///
    /// # Errors
    /// `Denied` for an identity that may read none.
    pub async fn list(&self, caller: &Principal, ask: &ListAsk) -> Result<Listed, ServiceError> {
        let area_wide = permit(caller, Action::ReadReferral, Relationship::None).is_ok();
        if !area_wide {
            permit(caller, Action::ReadReferral, Relationship::Sender)?;
        }
        let subject = match (&ask.nhs_number, &ask.upn_and_birth) {
            (Some(nhs), _) => Some(SubjectKey::NhsNumber(Personal::new(
                nhs.expose().to_owned(),
            ))),
            (None, Some((upn, birth))) => Some(SubjectKey::UpnAndBirth(Personal::new(format!(
                "{}|{birth}",
                upn.expose()
            )))),
            (None, None) => None,
        };
        let query = ReferralQuery {
            agencies: (!area_wide).then(|| self.agencies_of(caller)),
            pathway: ask.pathway.clone(),
            subject,
            before: ask.before,
            limit: page(ask.limit),
        };
        let mut referrals = self.parts.store.list(&query).await?;
        let full = u32::try_from(referrals.len()).unwrap_or(u32::MAX) >= query.limit;
        let more = referrals.last().map(|view| view.id).filter(|_| full);
        // Who may not read one by its key is not shown it here either.
        referrals.retain(|view| {
            let read = Action::ReadReferral;
            permit(caller, read, self.relationship(caller, view, read)).is_ok()
        });
        Ok(Listed { referrals, more })
    }

    /// One window of the caller's feed, from a log index on.
    ///
    /// # Errors
    /// `Denied` for an identity that is no agency's.
    pub async fn feed(&self, caller: &Principal, from: u64) -> Result<FeedPage, ServiceError> {
        permit(caller, Action::Watch, Relationship::None)?;
        let query = FeedQuery {
            agencies: self.agencies_of(caller),
            from,
            window: FEED_WINDOW,
        };
        Ok(self.parts.store.feed(&query).await?)
    }

    /// Where a feed that begins now begins.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn feed_end(&self) -> Result<u64, ServiceError> {
        Ok(self.parts.store.log_state().await?.size)
    }

    /// Where a referral would go, and why each rule did or did not fire.
    ///
    /// # Errors
    /// `Denied` for an identity that may not ask.
    pub fn explain_route(
        &self,
        caller: &Principal,
        referral: &Referral,
    ) -> Result<Explanation, ServiceError> {
        permit(caller, Action::ExplainRoute, Relationship::None)?;
        let today = self.now().london_date();
        let facts = Facts::of(referral, &caller.agency, today);
        Ok(explain(&self.in_force().directory, &facts, today))
    }
}

/// A page's size within its limit; 0 asks for the default of 50.
pub(super) const fn page(limit: u32) -> u32 {
    match limit {
        0 => 50,
        n if n > PAGE_MAX => PAGE_MAX,
        n => n,
    }
}
