//! HL7 v2 dates and times (DT and TS/DTM): `YYYY[MM[DD[HHMM[SS[.S[S[S[S]]]]]]]][+/-ZZZZ]`.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};

/// Reads the calendar day of a date or time; none unless year, month and day are there and real.
pub fn date(text: &str) -> Option<Date> {
    let digits = leading_digits(text);
    Date::new(
        number(digits, 0, 4)?.try_into().ok()?,
        number(digits, 4, 6)?.try_into().ok()?,
        number(digits, 6, 8)?.try_into().ok()?,
    )
    .ok()
}

/// Reads a point in time. A time without an offset is one of the zone given.
pub fn instant(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let day = date(text)?;
    let digits = leading_digits(text);
    let rest = text.get(digits.len()..)?;
    let (hour, minute) = match digits.len() {
        8 => (0, 0),
        12 | 14 => (number(digits, 8, 10)?, number(digits, 10, 12)?),
        _ => return None,
    };
    let second = number(digits, 12, 14).unwrap_or_default();
    let offset_text = match rest.strip_prefix('.') {
        Some(fraction) => fraction.get(leading_digits(fraction).len()..)?,
        None => rest,
    };
    let hour = hour.try_into().ok()?;
    let minute = minute.try_into().ok()?;
    let time = jiff::civil::Time::new(hour, minute, second.try_into().ok()?, 0).ok()?;
    let local = DateTime::from_parts(day, time);
    if offset_text.is_empty() {
        return zone.to_timestamp(local).ok();
    }
    offset(offset_text)?.to_timestamp(local).ok()
}

/// Writes a point in time in UTC, to the second.
pub fn write_instant(at: Timestamp) -> String {
    Offset::UTC
        .to_datetime(at)
        .strftime("%Y%m%d%H%M%S+0000")
        .to_string()
}

/// Writes a calendar day.
pub fn write_date(day: Date) -> String {
    day.strftime("%Y%m%d").to_string()
}

fn offset(text: &str) -> Option<Offset> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    if digits.len() != 4 || leading_digits(digits).len() != 4 {
        return None;
    }
    let minutes = number(digits, 0, 2)? * 60 + number(digits, 2, 4)?;
    Offset::from_seconds(sign * minutes * 60).ok()
}

fn leading_digits(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn number(digits: &str, from: usize, to: usize) -> Option<i32> {
    digits.get(from..to)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<String> {
        let london = TimeZone::get("Europe/London").unwrap();
        instant(text, &london).map(|at| at.to_string())
    }

    #[test]
    fn times_are_read_at_every_precision_seen() {
        for (text, expected) in [
            ("202201251620+0000", Some("2022-01-25T16:20:00Z")),
            ("202201251620+0215", Some("2022-01-25T14:05:00Z")),
            ("20210110015014+0315", Some("2021-01-09T22:35:14Z")),
            ("20260302103000-0100", Some("2026-03-02T11:30:00Z")),
            ("20260302103000.1234+0000", Some("2026-03-02T10:30:00Z")),
            ("20260702103000", Some("2026-07-02T09:30:00Z")),
            ("20260302", Some("2026-03-02T00:00:00Z")),
            ("2026", None),
            ("202603021", None),
            ("20260230", None),
            ("202603022561", None),
            ("202603021030+01", None),
            ("20260302103000Z", None),
            ("", None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn day_needs_year_month_and_day() {
        assert_eq!(date("20160504").unwrap().to_string(), "2016-05-04");
        assert_eq!(date("20160504103000").unwrap().to_string(), "2016-05-04");
        assert_eq!(date("201605"), None);
        assert_eq!(date("20161304"), None);
    }

    proptest! {
        #[test]
        fn written_instant_is_read_back(second in 0_i64..4_000_000_000) {
            let at = Timestamp::from_second(second).unwrap();
            prop_assert_eq!(instant(&write_instant(at), &TimeZone::UTC), Some(at));
        }

        #[test]
        fn reading_anything_never_panics(text in ".{0,24}") {
            prop_assert!(instant(&text, &TimeZone::UTC).is_none() || date(&text).is_some());
        }
    }
}
