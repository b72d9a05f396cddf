//! Time as an argument: milliseconds UTC, and the port that reads a clock.

use std::fmt;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// An instant: milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Makes an instant from milliseconds since the Unix epoch.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// This instant moved later, saturating.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// This instant moved earlier, saturating.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Time from `earlier` to this instant; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The local date in Europe/London, which every duty in England is counted in.
    pub fn london_date(self) -> Date {
        let tz = TimeZone::get("Europe/London").unwrap_or(TimeZone::UTC);
        tz.to_datetime(jiff::Timestamp::from_millisecond(self.0).unwrap_or_default())
            .date()
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// The port that reads the time. Only the process's composition root holds the real one.
pub trait Clock: Send + Sync {
    /// The present instant.
    fn now(&self) -> Timestamp;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn london_date_follows_summer_time() {
        // 2026-03-29T23:30:00Z is 00:30 on the 30th in London: summer time began that morning.
        let at: jiff::Timestamp = "2026-03-29T23:30:00Z".parse().unwrap();
        assert_eq!(
            Timestamp::from_ms(at.as_millisecond()).london_date(),
            jiff::civil::date(2026, 3, 30)
        );
        let winter: jiff::Timestamp = "2026-10-25T23:30:00Z".parse().unwrap();
        assert_eq!(
            Timestamp::from_ms(winter.as_millisecond()).london_date(),
            jiff::civil::date(2026, 10, 25)
        );
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(
            Timestamp::from_ms(i64::MAX)
                .plus(Duration::from_secs(1))
                .as_ms(),
            i64::MAX
        );
        assert_eq!(
            Timestamp::from_ms(1).since(Timestamp::from_ms(5)),
            Duration::ZERO
        );
    }
}
