//! Values of the directory's files that TOML has no word for.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::Date;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// A day, as a TOML local date or as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Day(pub(super) Date);

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DayVisitor;
        impl<'de> Visitor<'de> for DayVisitor {
            type Value = Day;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a day such as 2026-09-01")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Day, E> {
                text.parse()
                    .map(Day)
                    .map_err(|_| E::custom("not a day such as 2026-09-01"))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Day, A::Error> {
                let at = toml::value::Datetime::deserialize(MapAccessDeserializer::new(map))?;
                if at.time.is_some() {
                    return Err(A::Error::custom("a day has no time: write 2026-09-01"));
                }
                self.visit_str(&at.to_string())
            }
        }
        deserializer.deserialize_any(DayVisitor)
    }
}

/// A positive length of time written as `72h`, `30s` or `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lasting(pub(super) Duration);

impl Lasting {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let signed: SignedDuration = text.parse().ok()?;
        Duration::try_from(signed)
            .ok()
            .filter(|d| !d.is_zero())
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for Lasting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom("not a length of time such as 72h, 30s or 5m"))
    }
}

/// The outward part of a postcode, upper case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outward(pub(super) String);

impl<'de> Deserialize<'de> for Outward {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?.to_ascii_uppercase();
        let ok = (2..=4).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if ok {
            Ok(Self(text))
        } else {
            Err(D::Error::custom(
                "not the outward part of a postcode such as SS1",
            ))
        }
    }
}

/// One value or an array of them, each with where it stands.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany<T>(pub(super) Vec<Spanned<T>>);

impl<T> OneOrMany<T> {
    pub(super) fn into_values<C: FromIterator<T>>(self) -> C {
        self.0.into_iter().map(Spanned::into_inner).collect()
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Spanned::<Written<T>>::deserialize(deserializer)?;
        let span = written.span();
        Ok(Self(match written.into_inner() {
            Written::One(value) => vec![Spanned::new(span, value)],
            Written::Many(values) => values,
        }))
    }
}

enum Written<T> {
    One(T),
    Many(Vec<Spanned<T>>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WrittenVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for WrittenVisitor<T> {
            type Value = Written<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or an array of texts")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(StrDeserializer::new(text)).map(Written::One)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Written::Many(items))
            }
        }
        deserializer.deserialize_any(WrittenVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_read_as_people_write_them() {
        for (text, secs) in [
            ("72h", 259_200),
            ("30s", 30),
            ("5m", 300),
            ("1h 30m", 5_400),
            ("PT2h", 7_200),
        ] {
            assert_eq!(
                Lasting::parse(text),
                Some(Lasting(Duration::from_secs(secs))),
                "{text}"
            );
        }
        for text in ["", "0s", "-5m", "5", "soon", "1 fortnight"] {
            assert_eq!(Lasting::parse(text), None, "{text}");
        }
    }
}
