//! What administrators list: deliveries, alarms and the conservation check.

use waymark_adapters::grpc::convert::{
    delivery_state_from_proto, delivery_state_to_proto, timestamp_to_proto,
};
use waymark_core::access::Principal;
use waymark_core::alarm::AlarmKind;
use waymark_core::delivery::DeliveryState;
use waymark_core::id::{DeliveryId, ServiceId};
use waymark_core::port::{CheckFault, DeliveryQuery, DeliveryView, OpenOnly};
use waymark_proto::v1;

use super::super::cursor::Kind;
use super::super::page::{Page, SCANS_MAX};
use super::super::referral::{key, page_scope, parsed};
use super::super::status::{field, fields};
use super::super::write;
use super::Admin;
use crate::service::{ConservationReport, Key, ServiceError};

/// States that one list is filtered by, at most.
const STATES_MAX: usize = 11;
/// Legs without cover shown by the conservation check.
const UNCOVERED_MAX: usize = 200;
/// The rule of the conservation check that finds legs without cover.
const UNCOVERED: &str = "leg_without_work";

impl Admin {
    /// A page of deliveries, oldest first.
    pub(super) async fn deliveries(
        &self,
        principal: &Principal,
        ask: v1::ListDeliveriesRequest,
    ) -> Result<v1::ListDeliveriesResponse, ServiceError> {
        let states = states(&ask.states)?;
        let service: Option<ServiceId> = parsed("service_id", &ask.service_id)?;
        let rest = v1::ListDeliveriesRequest {
            page_size: 0,
            page_token: String::new(),
            ..ask.clone()
        };
        let page = Page::read(
            Kind::Deliveries,
            page_scope(principal, &rest),
            ask.page_size,
            &ask.page_token,
        )?;
        let referral = match ask.referral {
            None => None,
            Some(named) => match key("referral", Some(named))? {
                Key::Id(id) => Some(id),
                key => Some(self.face.service.referral(principal, &key).await?.id),
            },
        };
        let mut query = DeliveryQuery {
            state: None,
            endpoint: parsed("endpoint_id", &ask.endpoint_id)?,
            referral,
            lane: parsed("lane_id", &ask.lane_id)?,
            replaces: None,
            after: page.id().map(DeliveryId::from_bytes),
            limit: page.size,
        };
        let (mut views, mut more) = (Vec::new(), true);
        for _ in 0..SCANS_MAX {
            let found = self.merged(principal, &states, &query).await?;
            let whole = found.len() >= page.len();
            let mut unread = found.into_iter();
            while views.len() < page.len() {
                let Some(view) = unread.next() else { break };
                query.after = Some(view.delivery.id);
                if service.is_none() || view.delivery.service == service {
                    views.push(view);
                }
            }
            more = whole || unread.next().is_some();
            if !more || views.len() == page.len() {
                break;
            }
        }
        let told = self.told(principal, &views).await?;
        let last = query.after.filter(|_| more);
        Ok(v1::ListDeliveriesResponse {
            deliveries: views.iter().map(|view| self.shown(view, &told)).collect(),
            next_page_token: last.map(|id| page.token(id.as_bytes())).unwrap_or_default(),
        })
    }

    /// The oldest deliveries in any of some states: the store lists by one.
    async fn merged(
        &self,
        principal: &Principal,
        states: &[DeliveryState],
        query: &DeliveryQuery,
    ) -> Result<Vec<DeliveryView>, ServiceError> {
        let service = &self.face.service;
        if states.is_empty() {
            return service.deliveries(principal, query.clone()).await;
        }
        let mut found = Vec::new();
        for state in states {
            let query = DeliveryQuery {
                state: Some(*state),
                ..query.clone()
            };
            found.extend(service.deliveries(principal, query).await?);
        }
        found.sort_by_key(|view| view.delivery.id);
        // A delivery that moved between two of the queries is found in both.
        found.dedup_by_key(|view| view.delivery.id);
        found.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
        Ok(found)
    }

    /// A page of alarms, oldest first.
    pub(super) async fn alarms(
        &self,
        principal: &Principal,
        ask: v1::ListAlarmsRequest,
    ) -> Result<v1::ListAlarmsResponse, ServiceError> {
        let kind = alarm_kind(&ask.kind)?;
        let rest = v1::ListAlarmsRequest {
            page_size: 0,
            page_token: String::new(),
            ..ask.clone()
        };
        let page = Page::read(
            Kind::Alarms,
            page_scope(principal, &rest),
            ask.page_size,
            &ask.page_token,
        )?;
        let open_only = if ask.include_resolved {
            OpenOnly::No
        } else {
            OpenOnly::Yes
        };
        let mut found: Vec<(Vec<u8>, v1::Alarm)> = Vec::new();
        for alarm in self.face.service.alarms(principal, open_only).await? {
            if kind.is_some_and(|kind| alarm.alarm.kind != kind) {
                continue;
            }
            let shown = write::alarm(&alarm);
            found.push((place(alarm.opened.as_ms(), &shown.alarm_id), shown));
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        let after = page.position.as_deref().unwrap_or_default();
        let rest = found
            .into_iter()
            .skip_while(|(place, _)| place.as_slice() <= after);
        let (shown, next_page_token) = page.cut(rest, |(place, _)| place.clone());
        Ok(v1::ListAlarmsResponse {
            alarms: shown.into_iter().map(|(_, alarm)| alarm).collect(),
            next_page_token,
        })
    }

    /// The conservation check.
    pub(super) async fn conservation(
        &self,
        principal: &Principal,
    ) -> Result<v1::GetConservationResponse, ServiceError> {
        let report = self.face.service.conservation(principal).await?;
        let mut shown = conservation(&report);
        shown.checked_at = Some(timestamp_to_proto(self.face.service.now()));
        Ok(shown)
    }
}

fn states(numbers: &[i32]) -> Result<Vec<DeliveryState>, ServiceError> {
    if numbers.len() > STATES_MAX {
        return Err(field("states", format!("at most {STATES_MAX}")));
    }
    let read = numbers.iter().zip(0..).map(|(number, at)| {
        delivery_state_from_proto(&format!("states[{at}]"), *number).map_err(|v| fields(vec![v]))
    });
    let mut states = read.collect::<Result<Vec<_>, _>>()?;
    states.sort_unstable();
    states.dedup();
    Ok(states)
}

fn alarm_kind(text: &str) -> Result<Option<AlarmKind>, ServiceError> {
    if text.is_empty() {
        return Ok(None);
    }
    let known = || {
        AlarmKind::ALL
            .iter()
            .map(|kind| kind.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    AlarmKind::parse(text)
        .map(Some)
        .ok_or_else(|| field("kind", format!("is one of {}", known())))
}

/// Where an alarm stands in the list: by when it was opened, then by its id.
fn place(opened_ms: i64, id: &str) -> Vec<u8> {
    let mut place = u64::try_from(opened_ms).unwrap_or(0).to_be_bytes().to_vec();
    place.extend_from_slice(id.as_bytes());
    place
}

fn conservation(report: &ConservationReport) -> v1::GetConservationResponse {
    let counters = &report.counters;
    let states = DeliveryState::ALL.iter().filter_map(|state| {
        let count = counters.by_state.get(state.as_str()).copied().unwrap_or(0);
        let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
        Some(v1::StateCount {
            state: delivery_state_to_proto(*state).into(),
            count,
        })
    });
    let uncovered = report.faults.iter().filter(|fault| fault.rule == UNCOVERED);
    let mut differences: Vec<String> = report.faults.iter().map(words).collect();
    let listed = u64::try_from(report.faults.len()).unwrap_or(u64::MAX);
    if report.faults_found > listed {
        differences.push(format!("and {} more", report.faults_found - listed));
    }
    v1::GetConservationResponse {
        balanced: report.holds,
        checked_at: None,
        accepted_in_log: counters.accepted_entries,
        accepted_counted: counters.referrals,
        deliveries_made: counters.deliveries,
        states: states.collect(),
        uncovered_leg_ids: uncovered
            .take(UNCOVERED_MAX)
            .map(|fault| fault.detail.clone())
            .collect(),
        differences,
    }
}

fn words(fault: &CheckFault) -> String {
    if fault.referral.is_empty() {
        format!("{}: {}", fault.rule, fault.detail)
    } else {
        format!(
            "{}: {} of referral {}",
            fault.rule, fault.detail, fault.referral
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_once_each_and_by_name() {
        let done = i32::from(v1::DeliveryState::Done);
        let parked = i32::from(v1::DeliveryState::Parked);
        assert_eq!(
            states(&[done, parked, done]).unwrap(),
            [DeliveryState::Parked, DeliveryState::Done]
        );
        assert_eq!(
            states(&[done, 99]).unwrap_err().violations[0].field,
            "states[1]"
        );
        assert!(states(&[done; STATES_MAX]).is_ok());
        assert_eq!(
            states(&[done; STATES_MAX + 1]).unwrap_err().violations[0].field,
            "states"
        );
    }

    #[test]
    fn alarms_stand_in_the_order_of_their_opening() {
        assert!(place(1, "f") < place(2, "a"));
        assert!(place(255, "a") < place(256, "a"));
        assert!(place(1, "a") < place(1, "b"));
    }

    #[test]
    fn an_unknown_kind_of_alarm_is_refused_with_those_that_there_are() {
        assert_eq!(alarm_kind("").unwrap(), None);
        assert_eq!(alarm_kind("parked").unwrap(), Some(AlarmKind::Parked));
        assert!(
            alarm_kind("delivery").unwrap_err().violations[0]
                .why
                .contains("wrong_recipient")
        );
    }

    #[test]
    fn a_difference_is_told_in_words_and_an_uncovered_leg_by_its_id() {
        let fault = |rule, referral: &str| CheckFault {
            referral: referral.to_owned(),
            rule,
            detail: "leg-1".to_owned(),
        };
        let mut report = ConservationReport {
            faults: vec![fault(UNCOVERED, "r-1"), fault("accepts_logged", "")],
            faults_found: 5,
            ..ConservationReport::default()
        };
        report.counters.by_state = [("done".to_owned(), 2), ("queued".to_owned(), 0)].into();
        let shown = conservation(&report);
        assert_eq!(shown.uncovered_leg_ids, ["leg-1"]);
        let told = [
            "leg_without_work: leg-1 of referral r-1",
            "accepts_logged: leg-1",
            "and 3 more",
        ];
        assert_eq!(shown.differences, told);
        assert_eq!(shown.states.len(), 1);
        assert_eq!(shown.states[0].count, 2);
    }
}
