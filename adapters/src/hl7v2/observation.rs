//! What a message observes in words, numbers and codes: every OBX that is no document.

use super::content::{Coded, Repeated, filled, filled_text, opaque_debug};
use super::message::{Message, Segment};

/// One observation as it was sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Observation {
    /// OBX-3.
    pub name: Option<Coded>,
    /// OBX-5, each repetition that is not blank, as words.
    pub values: Vec<String>,
    /// OBX-6.
    pub units: Option<String>,
    /// OBX-8, each flag.
    pub flags: Vec<String>,
}

opaque_debug!(Observation);

impl Observation {
    /// Reads every observation of a message that holds a value and is no document.
    pub(super) fn read_all(message: &Message) -> Vec<Self> {
        let observations = message.segments_named("OBX");
        let observations = observations.filter(|obx| !matches!(&*obx.text(2, 1), "ED" | "RP"));
        observations.filter_map(Self::read).collect()
    }

    fn read(obx: Segment<'_>) -> Option<Self> {
        let kind = obx.text(2, 1);
        let value = |words: String| filled(&words);
        let values: Vec<String> = match &*kind {
            // A code with its words.
            "CE" | "CWE" | "CF" | "CNE" => Coded::all(obx, 5)
                .iter()
                .map(|it| format!("{} {}", it.code, it.text))
                .filter_map(value)
                .collect(),
            // An unescaped separator in a text is a text's own.
            _ => obx
                .field(5)
                .repetitions()
                .filter_map(|it| value(it.whole().into_owned()))
                .collect(),
        };
        (!values.is_empty()).then(|| Self {
            name: Coded::first(obx, 3),
            values,
            units: filled_text(obx, 6, 2).or_else(|| filled_text(obx, 6, 1)),
            flags: obx
                .field(8)
                .repetitions()
                .filter_map(|it| filled(&it.text(1)))
                .collect(),
        })
    }
}
