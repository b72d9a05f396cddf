//! Endpoints: defaults, limits, and secrets by name alone.

use std::time::Duration;

use toml::Spanned;

use super::{CodeMaps, Resolver};
use crate::delivery::{Evidence, RetryPolicy};
use crate::directory::Endpoint;
use crate::directory::load::raw::{RawEndpoint, RawRetry};
use crate::directory::load::value::Lasting;
use crate::directory::load::{At, secret};
use crate::id::EndpointId;

/// How long a delivery is tried, unless its endpoint says.
const DEADLINE_DEFAULT: Duration = Duration::from_hours(72);
/// How long better evidence may take, unless its endpoint says.
const EVIDENCE_WITHIN_DEFAULT: Duration = Duration::from_hours(24);
/// Longest attempt, unless its endpoint says.
const ATTEMPT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Attempts at the same time, unless its endpoint says.
const CONCURRENCY_DEFAULT: u32 = 4;
/// The most attempts at the same time that an endpoint may ask for.
const CONCURRENCY_MAX: u32 = 64;
/// The longest deadline and the longest wait for evidence.
const DEADLINE_MAX: Duration = Duration::from_hours(90 * 24);
/// The longest attempt that an endpoint may ask for.
const ATTEMPT_TIMEOUT_MAX: Duration = Duration::from_mins(10);

impl Resolver<'_> {
    pub(super) fn endpoint(
        &mut self,
        at: At<'_, RawEndpoint>,
        maps: &CodeMaps,
    ) -> Option<(EndpointId, Endpoint)> {
        let place = at.place();
        let codes = self.code_map(&at, at.value.code_map.as_ref(), maps);
        let e = &at.value;
        self.refer("agency", "agency", &e.agency, at.place_of(&e.agency));
        self.at_most(&at, e.deadline.as_ref(), "deadline", DEADLINE_MAX);
        self.at_most(
            &at,
            e.evidence_within.as_ref(),
            "evidence_within",
            DEADLINE_MAX,
        );
        self.at_most(
            &at,
            e.attempt_timeout.as_ref(),
            "attempt_timeout",
            ATTEMPT_TIMEOUT_MAX,
        );
        if let Some(concurrency) = &e.concurrency
            && !(1..=CONCURRENCY_MAX).contains(concurrency.get_ref())
        {
            let message = "concurrency is out of range".to_owned();
            self.fault(
                "limit",
                at.place_of(concurrency),
                message,
                &format!("use 1 to {CONCURRENCY_MAX}"),
            );
        }
        if let Some(grade) = &e.releases_at
            && *grade.get_ref() == Evidence::None
        {
            let message =
                "releases_at `none` would end a delivery before anything is sent".to_owned();
            self.fault("limit", at.place_of(grade), message, "use `sent` or better");
        }
        if let Some(settings) = &e.settings {
            for (key, why) in secret::faults(settings.get_ref()) {
                self.fault(
                    "literal-secret",
                    at.place_of(settings),
                    format!("settings of endpoint {}: `{key}` {why}", e.id.get_ref()),
                    "write \"secret:<name>\" and give the secret to the process by file or environment",
                );
            }
        }
        let RawEndpoint {
            id,
            agency,
            adapter,
            settings,
            releases_at,
            concurrency,
            retry,
            ..
        } = at.value;
        let id = id.into_inner();
        let validity = self.validity(at.value.valid_from, at.value.valid_to, place.clone());
        let or =
            |given: Option<Spanned<Lasting>>, default| given.map_or(default, |s| s.into_inner().0);
        self.declare("endpoint", id.as_str(), place).then(|| {
            let endpoint = Endpoint {
                id: id.clone(),
                agency: agency.into_inner(),
                adapter,
                settings: settings.map(Spanned::into_inner).unwrap_or_default(),
                releases_at: releases_at.map_or(Evidence::ApplicationAck, Spanned::into_inner),
                deadline: or(at.value.deadline, DEADLINE_DEFAULT),
                evidence_within: or(at.value.evidence_within, EVIDENCE_WITHIN_DEFAULT),
                attempt_timeout: or(at.value.attempt_timeout, ATTEMPT_TIMEOUT_DEFAULT),
                concurrency: concurrency.map_or(CONCURRENCY_DEFAULT, Spanned::into_inner),
                retry: retry_policy(&retry),
                codes,
                validity,
            };
            (id, endpoint)
        })
    }

    fn at_most<T>(
        &mut self,
        at: &At<'_, T>,
        given: Option<&Spanned<Lasting>>,
        field: &str,
        max: Duration,
    ) {
        if let Some(given) = given
            && given.get_ref().0 > max
        {
            let remedy = format!("use at most {} h", max.as_secs_f64() / 3600.0);
            self.fault(
                "limit",
                at.place_of(given),
                format!("{field} is too long"),
                &remedy,
            );
        }
    }
}

fn retry_policy(raw: &RawRetry) -> RetryPolicy {
    let default = RetryPolicy::default();
    let ms = |given: Option<Lasting>, default: u64| {
        given.map_or(default, |l| {
            u64::try_from(l.0.as_millis()).unwrap_or(u64::MAX).max(1)
        })
    };
    let first_ms = ms(raw.first, default.first_ms);
    RetryPolicy {
        first_ms,
        cap_ms: ms(raw.cap, default.cap_ms).max(first_ms),
        soft_rejects_max: raw.soft_rejects_max.unwrap_or(default.soft_rejects_max),
        panics_max: raw.panics_max.unwrap_or(default.panics_max),
    }
}
