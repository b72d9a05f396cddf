//! Telling the sender: one delivery to its return endpoint, if it has one (ruling 11).

use waymark_core::delivery::Kind;
use waymark_core::directory::Directory;
use waymark_core::id::{AgencyId, WireId};
use waymark_core::port::{NewBody, NewDelivery, StatusNotice};
use waymark_core::time::Timestamp;

use super::Drafter;
use super::draft::NOTE;

/// What a sender is told of.
#[derive(Clone, Debug)]
pub struct Telling<'a> {
    /// The agency that sent the referral.
    pub sender: &'a AgencyId,
    /// The news.
    pub notice: &'a StatusNotice,
    /// When.
    pub at: Timestamp,
    /// Whether it is of an urgent or safeguarded referral.
    pub urgent: bool,
}

/// The message to the sender's return endpoint; `None` when the directory names none, and the sender then learns
/// it from WatchReferrals and GetReferral.
pub fn tell_sender(
    draft: &Drafter<'_>,
    directory: &Directory,
    telling: &Telling<'_>,
) -> Option<(NewBody, NewDelivery)> {
    let today = telling.at.london_date();
    let sender = directory.successor(telling.sender, today);
    let agency = directory.agencies.get(&sender)?;
    let endpoint = directory.endpoint(agency.return_endpoint.as_ref()?, today)?;
    let bytes = serde_json::to_vec(telling.notice).ok()?;
    let body = draft.body(telling.at, NOTE, bytes);
    let id = draft.delivery(telling.at);
    let delivery = NewDelivery {
        id,
        wire_id: WireId::of(id),
        leg: None,
        kind: Kind::Status,
        endpoint: endpoint.id.clone(),
        recipient: endpoint.agency.clone(),
        service: None,
        content: None,
        note: Some(body.id),
        version: 0,
        due: telling.at,
        deadline: telling.at.plus(endpoint.deadline),
        urgent: telling.urgent,
        replaces: None,
    };
    Some((body, delivery))
}
