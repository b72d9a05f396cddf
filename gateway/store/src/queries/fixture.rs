//! A database of this engine for tests, and builders that take only what matters.

use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{AssertSqlSafe, Database as _};
use waymark_core::alarm::{AlarmKind, NewAlarm};
use waymark_core::audit::{EntryDraft, EntryKind};
use waymark_core::delivery::{DeliveryState, Evidence, Kind, Next, ParkReason};
use waymark_core::directory::Environment;
use waymark_core::id::{
    AgencyId, BodyId, DeliveryId, DocumentId, EventId, LegId, Reference, ReferralId, StreamId,
    WireId, WorkerId,
};
use waymark_core::leg::{LegState, Owner};
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    Accept, CheckFault, CloseAttempt, DeliveryStore as _, EventKind, LeaseAsk, LeaseToken, Leased,
    LegChange, MessageKey, NewBody, NewDelivery, NewEvent, NewLeg, OpenAttempt, ReferralChange,
    ReferralStore as _, Rendered, StoreError, SubjectKey, UpkeepStore as _, WorkClass,
};
use waymark_core::referral::Priority;
use waymark_core::time::Timestamp;

use super::{Backend, Db, start};
use crate::open::{Mode, OpenOptions, Schema};
use crate::seal::{Keyring, Seal};

/// When tests begin: 23 November 2026.
pub(super) const T0: i64 = 1_795_392_000_000;

/// An instant of a test.
pub(super) fn ms(after: i64) -> Timestamp {
    Timestamp::from_ms(T0 + after)
}

/// An open database of its own.
pub(super) struct Bench {
    pub(super) store: Backend,
    pub(super) dir: Option<tempfile::TempDir>,
    made: AtomicU64,
    postgres: bool,
    sender: AgencyId,
}

/// A referral as it was accepted.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) referral: ReferralId,
    pub(super) stream: StreamId,
    pub(super) event: EventId,
    pub(super) legs: Vec<LegId>,
    pub(super) deliveries: Vec<DeliveryId>,
}

/// The server that PostgreSQL tests share, if there is one.
fn server() -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests are told of their server this way"
    )]
    std::env::var("WAYMARK_TEST_POSTGRES").ok()
}

pub(super) async fn url() -> Option<(String, Option<tempfile::TempDir>)> {
    if Db::NAME == "SQLite" {
        let dir = tempfile::tempdir().unwrap();
        return Some((
            format!("sqlite://{}", dir.path().join("w.db").display()),
            Some(dir),
        ));
    }
    let Some(server) = server() else {
        eprintln!("not run: WAYMARK_TEST_POSTGRES names no server");
        return None;
    };
    let name = format!(
        "waymark_{}",
        hex::encode(crate::seal::random::<8>().unwrap())
    );
    let pool = sqlx::Pool::<Db>::connect(&server).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    let (front, _) = server.rsplit_once('/').unwrap();
    Some((format!("{front}/{name}"), None))
}

/// Opens a fresh database; `None` where there is no server for it.
pub(super) async fn bench() -> Option<Bench> {
    let (url, dir) = url().await?;
    let keyring = Keyring::generate().unwrap();
    let seal = Seal::new(&keyring).unwrap();
    let options = OpenOptions {
        url,
        keyring,
        environment: Environment::Test,
        mode: Mode::Write,
        schema: Schema::Migrate,
        now: ms(0),
        free_disk_min: 0,
    };
    let store = start::start(&options, seal).await.unwrap();
    store.upkeep(ms(0)).await.unwrap();
    Some(Bench {
        store,
        dir,
        made: AtomicU64::new(1),
        postgres: Db::NAME == "PostgreSQL",
        sender: "EE100001".parse().unwrap(),
    })
}

impl Bench {
    pub(super) fn is_postgres(&self) -> bool {
        self.postgres
    }

    /// 16 bytes that sort in the order they were made, under the time of the test's beginning.
    pub(super) fn bytes(&self) -> [u8; 16] {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let mut random = [0; 10];
        random[2..].copy_from_slice(&n.to_be_bytes());
        let at = u64::try_from(T0).unwrap() + n;
        uuid::Builder::from_unix_timestamp_millis(at, &random)
            .into_uuid()
            .into_bytes()
    }

    pub(super) fn entry(&self, kind: EntryKind, stream: StreamId, at: Timestamp) -> EntryDraft {
        EntryDraft {
            kind,
            event: EventId::from_bytes(self.bytes()),
            at,
            stream,
            actor: [7; 16],
            org: "EE100001".parse().unwrap(),
            codes: Vec::new(),
            commitments: Vec::new(),
            reference: None,
        }
    }

    pub(super) fn event(&self, id: EventId, delivery: Option<DeliveryId>) -> NewEvent {
        NewEvent {
            id,
            kind: EventKind::Delivery,
            leg: None,
            delivery,
            source: self.sender.clone(),
            source_version: None,
            state: None,
            reception: None,
            code: "test".to_owned(),
            text: None,
        }
    }

    pub(super) fn body(&self, bytes: &[u8]) -> NewBody {
        NewBody {
            id: BodyId::from_bytes(self.bytes()),
            media_type: "text/plain".to_owned(),
            bytes: Payload::new(bytes.to_vec()),
        }
    }

    pub(super) fn delivery(&self, kind: Kind, endpoint: &str, leg: Option<LegId>) -> NewDelivery {
        let id = DeliveryId::from_bytes(self.bytes());
        NewDelivery {
            id,
            wire_id: WireId::of(id),
            leg,
            kind,
            endpoint: endpoint.parse().unwrap(),
            recipient: "RXX".parse().unwrap(),
            service: Some("autism".parse().unwrap()),
            content: None,
            note: None,
            version: 1,
            due: ms(0),
            deadline: ms(86_400_000),
            urgent: false,
            replaces: None,
        }
    }

    /// Draws up a referral of a child to one endpoint a leg.
    pub(super) fn draft(&self, child: &str, endpoints: &[&str]) -> Accept {
        let at = ms(0);
        let referral = ReferralId::from_bytes(self.bytes());
        let stream = StreamId::from_bytes(self.bytes());
        let entry = self.entry(EntryKind::Accepted, stream, at);
        let body = self.body(b"content");
        let mut legs = Vec::new();
        let mut deliveries = Vec::new();
        for endpoint in endpoints {
            let leg = LegId::from_bytes(self.bytes());
            legs.push(NewLeg {
                id: leg,
                service: "autism".parse().unwrap(),
                agency: "RXX".parse().unwrap(),
                rule: None,
                triage: None,
                owner: owner(),
                clock: "TRIAGE".to_owned(),
                clock_started: at,
                next_action: "2026-12-07".to_owned(),
            });
            let delivery = self.delivery(Kind::New, endpoint, Some(leg));
            deliveries.push(NewDelivery {
                content: Some(body.id),
                ..delivery
            });
        }
        Accept {
            at,
            event: entry.event,
            referral,
            reference: Reference::of(referral),
            stream,
            sender: "EE100001".parse().unwrap(),
            message_key: MessageKey {
                sender: "EE100001".parse().unwrap(),
                key: Personal::new(format!("grpc:{referral}")),
                content: Payload::new(referral.as_bytes().to_vec()),
            },
            sender_reference: None,
            subject: SubjectKey::NhsNumber(Personal::from(child)),
            likeness: None,
            body,
            original: None,
            conversation: None,
            notes: Vec::new(),
            pathway: "autism-assessment".parse().unwrap(),
            priority: Priority::Routine,
            safeguarding: false,
            release: 1,
            legs,
            deliveries,
            documents: Vec::<(DocumentId, String)>::new(),
            alarms: Vec::new(),
            entry,
            openings: Vec::new(),
            traceparent: None,
        }
    }

    /// Accepts a referral of a child.
    pub(super) async fn send(&self, child: &str, endpoints: &[&str]) -> Sent {
        self.accept(self.draft(child, endpoints)).await
    }

    pub(super) async fn accept(&self, accept: Accept) -> Sent {
        let sent = Sent {
            referral: accept.referral,
            stream: accept.stream,
            event: accept.event,
            legs: accept.legs.iter().map(|leg| leg.id).collect(),
            deliveries: accept.deliveries.iter().map(|d| d.id).collect(),
        };
        self.store.accept(accept).await.unwrap();
        sent
    }

    /// A change of a referral that does nothing yet.
    pub(super) fn no_change(&self, of: &Sent, version: u64, at: Timestamp) -> ReferralChange {
        let entry = self.entry(EntryKind::Status, of.stream, at);
        let event = self.event(entry.event, None);
        ReferralChange::of((of.referral, version), event, entry)
    }

    /// Queues a later message of a referral, as its change number `version`.
    pub(super) async fn follow_up(
        &self,
        of: &Sent,
        version: u64,
        (kind, endpoint): (Kind, &str),
        at: Timestamp,
    ) -> DeliveryId {
        let delivery = self.delivery(kind, endpoint, of.legs.first().copied());
        let id = delivery.id;
        let change = ReferralChange {
            deliveries: vec![delivery],
            ..self.no_change(of, version, at)
        };
        self.store.change(change).await.unwrap();
        id
    }

    /// Moves a referral's first leg.
    pub(super) async fn move_leg(&self, of: &Sent, version: u64, state: LegState) {
        let change = LegChange {
            leg: of.legs[0],
            state,
            owner: owner(),
            clock: state.duty().map(|duty| duty.rule.to_owned()),
            next_action: state.duty().map(|_| "2026-12-07".to_owned()),
        };
        let change = ReferralChange {
            legs: vec![change],
            ..self.no_change(of, version, ms(9))
        };
        self.store.change(change).await.unwrap();
    }

    /// Leases due heads of an endpoint until a minute later.
    pub(super) async fn lease(&self, class: WorkClass, endpoint: &str, now: i64) -> Vec<Leased> {
        self.try_lease((class, endpoint), (now, now + 60_000), 100)
            .await
            .unwrap()
    }

    pub(super) async fn try_lease(
        &self,
        (class, endpoint): (WorkClass, &str),
        (now, until): (i64, i64),
        limit: u32,
    ) -> Result<Vec<Leased>, StoreError> {
        let ask = LeaseAsk {
            worker: WorkerId::from_bytes(self.bytes()),
            endpoint: endpoint.parse().unwrap(),
            class,
            services: Vec::new(),
            limit,
            now: ms(now),
            until: ms(until),
        };
        self.store.lease(&ask).await
    }

    /// The one head that an endpoint has due, leased.
    pub(super) async fn head(&self, class: WorkClass, endpoint: &str, now: i64) -> Leased {
        if self.is_postgres() {
            // What was refused rolls back behind the caller; a claim would pass over the rows that it still holds.
            self.run("SELECT head_id FROM lane FOR UPDATE").await;
        }
        let mut heads = self.lease(class, endpoint, now).await;
        assert_eq!(heads.len(), 1, "one due head");
        heads.remove(0)
    }

    pub(super) async fn open(&self, of: &Leased, at: i64) -> Result<(), StoreError> {
        let first = of.attempts == 0;
        self.store
            .open_attempt(OpenAttempt {
                token: of.token.clone(),
                number: of.attempts + 1,
                at: ms(at),
                rendered: first.then(|| {
                    let rendered = Rendered {
                        media_type: "x-application/hl7-v2+er7".to_owned(),
                        bytes: Payload::new(b"MSH|".to_vec()),
                    };
                    (BodyId::from_bytes(self.bytes()), rendered)
                }),
                entry: self.entry(EntryKind::Attempt, of.stream, ms(at)),
                openings: Vec::new(),
            })
            .await
    }

    pub(super) fn closing(&self, of: &Leased, number: u32, next: Next, at: i64) -> CloseAttempt {
        CloseAttempt {
            token: of.token.clone(),
            number,
            at: ms(at),
            next,
            outcome: "delivered",
            why: None,
            fault: None,
            evidence_due: None,
            receiver_reference: None,
            receipt: None,
            reopen: None,
            event: None,
            tell: None,
            alarms: Vec::new(),
            resolve: Vec::new(),
            entry: self.entry(EntryKind::Attempt, of.stream, ms(at)),
            openings: Vec::new(),
        }
    }

    /// Opens and closes an attempt of a leased delivery.
    pub(super) async fn attempt(&self, of: &Leased, next: Next, at: i64) {
        self.open(of, at).await.unwrap();
        let number = of.attempts + 1;
        self.store
            .close_attempt(self.closing(of, number, next, at))
            .await
            .unwrap();
    }

    pub(super) async fn state(&self, id: DeliveryId) -> DeliveryState {
        self.store.delivery(id).await.unwrap().unwrap().state
    }

    /// Runs a statement of the test's own.
    pub(super) async fn run(&self, sql: &str) -> u64 {
        let pool = &self.store.shared.pools.writer;
        let done = sqlx::query(AssertSqlSafe(sql.to_owned()))
            .execute(pool)
            .await;
        done.unwrap().rows_affected()
    }

    pub(super) async fn number(&self, sql: &str) -> i64 {
        let pool = &self.store.shared.pools.reader;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(pool)
            .await
            .unwrap()
    }

    /// Faults of the whole check, after comparing the counters with what was counted.
    pub(super) async fn faults(&self) -> Vec<CheckFault> {
        let mut after = None;
        let mut faults = Vec::new();
        let (mut referrals, mut by_state) = (0, std::collections::BTreeMap::new());
        loop {
            let page = self.store.check_page(after, 3).await.unwrap();
            referrals += page.referrals;
            for (state, count) in page.by_state {
                *by_state.entry(state).or_insert(0) += count;
            }
            faults.extend(page.faults);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut counters = self.store.counters().await.unwrap();
        counters.by_state.retain(|_, count| *count != 0);
        if referrals != counters.referrals || counters.referrals != counters.accepted_entries {
            let detail = format!("{referrals} of {counters:?}");
            faults.push(CheckFault {
                referral: String::new(),
                rule: "referral_missing",
                detail,
            });
        }
        if by_state != counters.by_state {
            let detail = format!("{by_state:?} of {counters:?}");
            faults.push(CheckFault {
                referral: String::new(),
                rule: "states_differ",
                detail,
            });
        }
        faults
    }
}

pub(super) fn owner() -> Owner {
    Owner {
        agency: "RXX".parse().unwrap(),
        role: "triage".to_owned(),
    }
}

/// Where a delivery goes after an attempt.
pub(super) fn next(state: DeliveryState, evidence: Evidence) -> Next {
    let parked = (state == DeliveryState::Parked).then_some(ParkReason::Refused);
    Next {
        state,
        evidence,
        due: None,
        parked,
        failures: 0,
        soft_rejects: 0,
    }
}

pub(super) fn due(state: DeliveryState, at: i64) -> Next {
    Next {
        due: Some(ms(at)),
        failures: 1,
        ..next(state, Evidence::None)
    }
}

/// A lease as its worker holds it.
pub(super) fn token(of: &Leased) -> LeaseToken {
    of.token.clone()
}

/// An alarm about a thing.
pub(super) fn alarm(kind: AlarmKind, subject: &dyn ToString) -> NewAlarm {
    NewAlarm {
        kind,
        subject: subject.to_string(),
        owner: owner().agency,
        role: owner().role,
        text: "look".to_owned(),
    }
}
