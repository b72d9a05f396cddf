//! Working days of England and Wales: pure functions of dates, and an error beyond the known horizon.
//!
//! A working day is not a Saturday, Sunday, Christmas Day, Good Friday or bank holiday (DOMAIN.md 4.2).

use std::collections::BTreeSet;

use jiff::civil::{Date, Weekday};

/// Bank holidays of England and Wales as published on GOV.UK, 2012-01-02 to 2028-12-26, one a line.
const PUBLISHED: &str = include_str!("calendar/bank-holidays.txt");

/// A date outside the years whose bank holidays are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "bank holidays are known from {first} to {last} only: load a newer table before counting to {asked}"
)]
pub struct BeyondHorizon {
    /// First day of the known years.
    pub first: Date,
    /// Last day of the known years.
    pub last: Date,
    /// The day asked for.
    pub asked: Date,
}

/// A table of bank holidays.
#[derive(Clone, Debug)]
pub struct Calendar {
    holidays: BTreeSet<Date>,
    first: Date,
    last: Date,
}

impl Calendar {
    /// Reads a table: one ISO date a line, `#` begins a comment. Whole years from the first to the last are known.
    ///
    /// # Errors
    /// The line that is not a date, from 1.
    pub fn parse(text: &str) -> Result<Self, usize> {
        let mut holidays = BTreeSet::new();
        for (number, line) in (1_usize..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                holidays.insert(line.parse::<Date>().map_err(|_| number)?);
            }
        }
        let (Some(first), Some(last)) = (holidays.first().copied(), holidays.last().copied())
        else {
            return Err(0);
        };
        Ok(Self {
            first: first.first_of_year(),
            last: last.last_of_year(),
            holidays,
        })
    }

    /// The table that the gateway carries.
    pub fn england_and_wales() -> Self {
        Self::parse(PUBLISHED).unwrap_or(Self {
            holidays: BTreeSet::new(),
            first: Date::MAX,
            last: Date::MIN,
        })
    }

    /// Whether a day is a working day.
    ///
    /// # Errors
    /// [`BeyondHorizon`] when the year's holidays are not known.
    pub fn is_working_day(&self, day: Date) -> Result<bool, BeyondHorizon> {
        if day < self.first || day > self.last {
            return Err(BeyondHorizon {
                first: self.first,
                last: self.last,
                asked: day,
            });
        }
        let weekend = matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday);
        Ok(!weekend && !self.holidays.contains(&day))
    }

    /// The day that is `count` working days after `start`, counted from the day after it.
    ///
    /// # Errors
    /// [`BeyondHorizon`] when counting leaves the known years.
    pub fn working_days_after(&self, start: Date, count: u16) -> Result<Date, BeyondHorizon> {
        let mut day = start;
        let mut left = count;
        while left > 0 {
            day = day.tomorrow().unwrap_or(Date::MAX);
            if self.is_working_day(day)? {
                left -= 1;
            }
        }
        Ok(day)
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn published_vectors_hold() {
        let c = Calendar::england_and_wales();
        for (start, count, end) in [
            (date(2026, 3, 2), 15, date(2026, 3, 23)),
            (date(2026, 3, 2), 70, date(2026, 6, 12)),
            (date(2025, 12, 19), 15, date(2026, 1, 14)),
            (date(2025, 12, 19), 70, date(2026, 4, 1)),
            (date(2018, 12, 4), 70, date(2019, 3, 15)),
        ] {
            assert_eq!(
                c.working_days_after(start, count),
                Ok(end),
                "{start} + {count}"
            );
        }
    }

    #[test]
    fn beyond_the_horizon_is_an_error() {
        let c = Calendar::england_and_wales();
        assert!(c.working_days_after(date(2028, 12, 29), 1).is_err());
        assert!(c.working_days_after(date(2028, 12, 28), 1).is_ok());
        assert!(c.is_working_day(date(2011, 12, 31)).is_err());
    }

    #[test]
    fn a_line_that_is_no_date_is_named() {
        assert_eq!(Calendar::parse("2026-01-01\nsoon\n").unwrap_err(), 2);
        assert_eq!(Calendar::parse("").unwrap_err(), 0);
    }
}
