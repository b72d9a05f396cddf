//! The rules of the conservation check. Each is one statement, so that it sees one state of the database and a change
//! under way is never taken for a fault.

/// A select over a list of referrals: what comes before the list, and what after. Where it asks for a delivery's state
/// it does so in an expression, or SQLite would read all deliveries of that state.
pub(super) type In = (&'static str, &'static str);

/// Deliveries by state.
pub(super) const BY_STATE: In = (
    "SELECT d.state, COUNT(*) AS deliveries FROM referral r JOIN delivery d ON d.referral_id = r.id
    WHERE r.id IN",
    "GROUP BY d.state ORDER BY d.state",
);

/// Rules that the database decides alone: name, and a statement that gives the referral and the thing at fault.
pub(super) const RULES: &[(&str, In)] = &[
    (
        "leg_missing",
        ("SELECT r.id AS id, r.id AS thing FROM referral r WHERE r.id IN",
         "AND r.leg_count <> (SELECT COUNT(*) FROM leg l WHERE l.referral_id = r.id) ORDER BY r.id"),
    ),
    (
        "delivery_missing",
        ("SELECT r.id AS id, r.id AS thing FROM referral r WHERE r.id IN",
         "AND r.delivery_count <> (SELECT COUNT(*) FROM delivery d WHERE d.referral_id = r.id) ORDER BY r.id"),
    ),
    (
        "reference_missing",
        ("SELECT r.id AS id, r.id AS thing FROM referral r WHERE r.id IN",
         "AND NOT EXISTS (SELECT 1 FROM reference f WHERE f.reference = r.reference AND f.referral_id = r.id)
         ORDER BY r.id"),
    ),
    (
        "subject_missing",
        ("SELECT r.id AS id, r.subject_id AS thing FROM referral r WHERE r.id IN",
         "AND NOT EXISTS (SELECT 1 FROM subject s WHERE s.id = r.subject_id) ORDER BY r.id"),
    ),
    (
        "stream_missing",
        ("SELECT r.id AS id, r.stream_id AS thing FROM referral r WHERE r.id IN",
         "AND NOT EXISTS (SELECT 1 FROM log_stream s WHERE s.stream_id = r.stream_id) ORDER BY r.id"),
    ),
    (
        "accept_event_missing",
        ("SELECT r.id AS id, r.event_id AS thing FROM referral r WHERE r.id IN",
         "AND NOT EXISTS (SELECT 1 FROM event e WHERE e.id = r.event_id) ORDER BY r.id"),
    ),
    (
        "accept_entry_missing",
        ("SELECT r.id AS id, r.event_id AS thing FROM referral r WHERE r.id IN",
         "AND NOT EXISTS (SELECT 1 FROM log_outbox o WHERE o.event_id = r.event_id)
         AND NOT EXISTS (SELECT 1 FROM log_event g JOIN log_entry l ON l.idx = g.idx AND l.event_id = g.event_id
             WHERE g.event_id = r.event_id) ORDER BY r.id"),
    ),
    (
        "event_entry_missing",
        ("SELECT r.id AS id, e.id AS thing FROM referral r JOIN event e ON e.referral_id = r.id WHERE r.id IN",
         "AND NOT EXISTS (SELECT 1 FROM log_outbox o WHERE o.event_id = e.id)
         AND NOT EXISTS (SELECT 1 FROM log_event g JOIN log_entry l ON l.idx = g.idx AND l.event_id = g.event_id
             WHERE g.event_id = e.id) ORDER BY r.id, e.id"),
    ),
    (
        "content_missing",
        ("SELECT r.id AS id, r.content_body AS thing FROM referral r WHERE r.id IN",
         "AND (NOT EXISTS (SELECT 1 FROM body b WHERE b.id = r.content_body)
             OR (r.original_body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM body b WHERE b.id = r.original_body)))
         ORDER BY r.id"),
    ),
    (
        "delivery_body_missing",
        ("SELECT r.id AS id, d.id AS thing FROM referral r JOIN delivery d ON d.referral_id = r.id WHERE r.id IN",
         "AND ((d.content_body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM body b WHERE b.id = d.content_body))
             OR (d.note_body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM body b WHERE b.id = d.note_body))
             OR (d.rendered_body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM body b WHERE b.id = d.rendered_body)))
         ORDER BY r.id, d.id"),
    ),
    (
        "event_body_missing",
        (
            "SELECT r.id AS id, e.id AS thing FROM referral r JOIN event e ON e.referral_id = r.id WHERE r.id IN",
            "AND e.text_body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM body b WHERE b.id = e.text_body)
         ORDER BY r.id, e.id",
        ),
    ),
    (
        "receipt_missing",
        (
            "SELECT r.id AS id, d.id AS thing FROM referral r JOIN delivery d ON d.referral_id = r.id
         JOIN attempt a ON a.delivery_id = d.id WHERE r.id IN",
            "AND a.receipt_body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM body b WHERE b.id = a.receipt_body)
         ORDER BY r.id, d.id",
        ),
    ),
    (
        "wire_missing",
        ("SELECT r.id AS id, d.id AS thing FROM referral r JOIN delivery d ON d.referral_id = r.id WHERE r.id IN",
         "AND NOT EXISTS (SELECT 1 FROM wire w WHERE w.wire_id = d.wire_id AND w.delivery_id = d.id)
         ORDER BY r.id, d.id"),
    ),
    (
        "attempt_missing",
        ("SELECT r.id AS id, d.id AS thing FROM referral r JOIN delivery d ON d.referral_id = r.id WHERE r.id IN",
         "AND d.attempts <> (SELECT COUNT(*) FROM attempt a WHERE a.delivery_id = d.id) ORDER BY r.id, d.id"),
    ),
    (
        // A live delivery is reached from its lane: the lane stands, its head is live, in this lane and not behind
        // this delivery, and it is due some day unless it waits for evidence.
        "delivery_without_lane",
        ("SELECT r.id AS id, d.id AS thing FROM referral r JOIN delivery d ON d.referral_id = r.id WHERE r.id IN",
         "AND (d.state || '') IN ('queued', 'attempting', 'retry_wait', 'unknown', 'held', 'awaiting_evidence')
         AND NOT EXISTS (SELECT 1 FROM lane l JOIN delivery h ON h.id = l.head_id
             WHERE l.endpoint_id = d.endpoint_id AND l.subject_id = d.subject_id
             AND h.endpoint_id = l.endpoint_id AND h.subject_id = l.subject_id
             AND h.state IN ('queued', 'attempting', 'retry_wait', 'unknown', 'held', 'awaiting_evidence')
             AND (l.due_ms IS NOT NULL OR h.state = 'awaiting_evidence'))
         ORDER BY r.id, d.id"),
    ),
    (
        "leg_without_owner",
        ("SELECT r.id AS id, l.id AS thing FROM referral r JOIN leg l ON l.referral_id = r.id
         WHERE r.id IN",
         "AND l.state NOT IN ('declined', 'redirected', 'closed', 'cancelled', 'entered_in_error')
         AND (l.owner_agency = '' OR l.owner_role = '' OR l.clock IS NULL OR l.next_action IS NULL)
         ORDER BY r.id, l.id"),
    ),
];

/// Parked deliveries: each must have somebody who was told.
const PARKED: In = (
    "SELECT r.id AS id, d.id AS thing, d.id AS delivery, d.endpoint_id, d.parked
    FROM referral r JOIN delivery d ON d.referral_id = r.id
    WHERE r.id IN",
    "AND (d.state || '') = 'parked' ORDER BY r.id, d.id",
);

/// Legs that no message has reached and none is on its way to, with what was meant to: somebody must have been told.
/// A leg whose message arrived waits for the receiver, under its owner and its clock; so does any later state.
const UNSERVED: In = ("SELECT r.id AS id, l.id AS thing, d.id AS delivery, d.endpoint_id, d.parked
    FROM referral r JOIN leg l ON l.referral_id = r.id
    LEFT JOIN delivery d ON d.referral_id = r.id AND d.leg_id = l.id
    WHERE r.id IN",
    "AND l.state = 'submitted'
    AND NOT EXISTS (SELECT 1 FROM delivery x WHERE x.referral_id = r.id AND x.leg_id = l.id
        AND x.kind IN ('new', 'amend')
        AND x.state IN ('queued', 'attempting', 'retry_wait', 'unknown', 'held', 'awaiting_evidence', 'done'))
    ORDER BY r.id, l.id, d.id");

/// Rules that need an open alarm: name, and the things that somebody must have been told of.
pub(super) const TOLD: [(&str, In); 2] = [
    ("parked_without_alarm", PARKED),
    ("leg_without_work", UNSERVED),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use waymark_core::delivery::DeliveryState;
    use waymark_core::leg::LegState;

    use super::*;

    /// The lists of states in a rule, each once.
    fn lists(rule: In) -> BTreeSet<Vec<String>> {
        let lists = rule.1.split(" IN ('").skip(1);
        lists
            .filter_map(|rest| rest.split_once("')"))
            .map(|(list, _)| sorted(list.split("', '")))
            .collect()
    }

    fn sorted<'a>(states: impl Iterator<Item = &'a str>) -> Vec<String> {
        let mut states: Vec<String> = states.map(str::to_owned).collect();
        states.sort();
        states
    }

    fn rule(name: &str) -> In {
        RULES.iter().find(|(rule, _)| *rule == name).unwrap().1
    }

    #[test]
    fn the_rules_name_the_states_that_the_domain_names() {
        let live = || {
            DeliveryState::ALL
                .iter()
                .filter(|s| s.blocks_lane())
                .map(|s| s.as_str())
        };
        assert_eq!(
            lists(rule("delivery_without_lane")),
            BTreeSet::from([sorted(live())])
        );
        let served = sorted(live().chain([DeliveryState::Done.as_str()]));
        assert!(lists(UNSERVED).contains(&served));
        let ended = LegState::ALL
            .iter()
            .filter(|s| s.is_terminal())
            .map(|s| s.as_str());
        assert_eq!(
            lists(rule("leg_without_owner")),
            BTreeSet::from([sorted(ended)])
        );
    }
}
