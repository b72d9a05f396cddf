//! One HL7 v2 message as text: parsed once, read by segment, field, repetition, component and
//! subcomponent. Versions, structures and segments that are not known are kept as they came.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::charset::Charset;
use super::escape;
use super::fault::{ErrorCode, FieldFault};
use super::separators::Separators;

/// The largest message that is read, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The most segments a message may have.
pub const SEGMENTS_MAX: usize = 1_000;
/// The most fields a segment may have.
pub const FIELDS_MAX: usize = 256;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What may end a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEndings {
    /// Carriage return alone, as MLLP has it.
    Cr,
    /// Carriage return, line feed or both, as files have it.
    Any,
}

/// A parsed message. It owns its text; what is read from it borrows.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    text: String,
    segments: Vec<Range<usize>>,
    separators: Separators,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("bytes", &self.text.len())
            .field("segments", &self.segments.len())
            .finish_non_exhaustive()
    }
}

impl Message {
    /// Parses the bytes of one message.
    ///
    /// # Errors
    /// The first fault found, naming segment and field.
    pub fn parse(bytes: &[u8], endings: LineEndings) -> Result<Self, FieldFault> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(message_fault(
                "is larger than a message may be",
                ErrorCode::DataType,
            ));
        }
        let bytes = match endings {
            LineEndings::Cr => bytes,
            LineEndings::Any => bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes),
        };
        let mut lines = lines(bytes, endings);
        let msh = lines.next().filter(|line| line.starts_with(b"MSH"));
        let msh = msh.ok_or_else(|| FieldFault::missing_segment("MSH"))?;
        let separators = Separators::read(msh)?;
        let charset = declared_charset(msh, separators)?;

        let mut text = String::with_capacity(bytes.len());
        let mut segments: Vec<Range<usize>> = Vec::new();
        for line in std::iter::once(msh).chain(lines) {
            let nth = segments.len() + 1;
            if nth > SEGMENTS_MAX {
                return Err(message_fault(
                    "has more segments than a message may have",
                    ErrorCode::SegmentSequence,
                ));
            }
            check_line(line, nth, separators)?;
            let start = text.len();
            let decoded = charset
                .decode(line)
                .map_err(|rule| line_fault(line, nth, rule))?;
            if decoded.chars().any(|c| c.is_control() && c != '\t') {
                return Err(line_fault(line, nth, "holds a control character"));
            }
            text.push_str(&decoded);
            segments.push(start..text.len());
            text.push('\r');
        }
        Ok(Self {
            text,
            segments,
            separators,
        })
    }

    /// Returns the separators the message uses.
    pub fn separators(&self) -> Separators {
        self.separators
    }

    /// Returns the message as UTF-8 text, each segment ended by a carriage return.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns what the message says, its envelope (MSH and SFT) left out: two messages that differ in
    /// id, time or sender's software alone have the same content.
    pub fn content(&self) -> String {
        let content = self
            .segments()
            .filter(|segment| !matches!(segment.name(), "MSH" | "SFT"));
        content.fold(String::new(), |all, segment| all + segment.raw() + "\r")
    }

    /// Walks the segments in their order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.segments.iter().map(|range| Segment {
            raw: self.text.get(range.clone()).unwrap_or_default(),
            separators: self.separators,
        })
    }

    /// Walks the segments of one name in their order.
    pub fn segments_named<'m>(&'m self, name: &'m str) -> impl Iterator<Item = Segment<'m>> {
        self.segments()
            .filter(move |segment| segment.name() == name)
    }

    /// Finds the n-th segment of one name, counted from one.
    pub fn segment<'m>(&'m self, name: &'m str, occurrence: usize) -> Option<Segment<'m>> {
        self.segments_named(name).nth(occurrence.checked_sub(1)?)
    }

    /// Reads one value by its place; none where the message does not reach so far.
    pub fn value(&self, place: Place<'_>) -> Option<String> {
        let segment = self.segment(place.segment, place.occurrence)?;
        let repetition = segment.field(place.field).repetition(place.repetition)?;
        let component = repetition.component(place.component);
        Some(component.subcomponent(place.subcomponent).into_owned()).filter(|it| !it.is_empty())
    }
}

/// Where one value stands; every number counts from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'p> {
    /// The segment's name.
    pub segment: &'p str,
    /// Which segment of that name.
    pub occurrence: usize,
    /// Which field.
    pub field: usize,
    /// Which repetition of the field.
    pub repetition: usize,
    /// Which component.
    pub component: usize,
    /// Which subcomponent.
    pub subcomponent: usize,
}

fn nth_part(raw: &str, separator: char, n: usize) -> Option<&str> {
    raw.split(separator).nth(n.checked_sub(1)?)
}

/// One segment of a message.
#[derive(Clone, Copy)]
pub struct Segment<'m> {
    raw: &'m str,
    separators: Separators,
}

impl<'m> Segment<'m> {
    /// Returns the segment's three letters.
    pub fn name(&self) -> &'m str {
        self.raw.get(..3).unwrap_or_default()
    }

    /// Returns the segment as it stands in the message, without its terminator.
    pub fn raw(&self) -> &'m str {
        self.raw
    }

    /// Reads a field by the standard's number; a field that is not there is empty.
    pub fn field(&self, number: usize) -> Field<'m> {
        // MSH-1 is the separator itself, so that segment counts one further than the others.
        let (first, index) = if self.name() == "MSH" {
            (2, number)
        } else {
            (1, number + 1)
        };
        let raw = nth_part(self.raw, self.separators.field, index).filter(|_| number >= first);
        Field {
            raw: raw.unwrap_or_default(),
            separators: self.separators,
        }
    }

    /// Reads the first subcomponent of one component in the field's first repetition.
    pub fn text(&self, field: usize, component: usize) -> Cow<'m, str> {
        self.field(field).first().text(component)
    }
}

/// One field: its repetitions.
#[derive(Clone, Copy)]
pub struct Field<'m> {
    raw: &'m str,
    separators: Separators,
}

impl<'m> Field<'m> {
    /// Returns the field as it stands in the message.
    pub fn raw(&self) -> &'m str {
        self.raw
    }

    /// Walks the repetitions; an empty field has none.
    pub fn repetitions(&self) -> impl Iterator<Item = Repetition<'m>> + use<'m> {
        let separators = self.separators;
        let raw = Some(self.raw).filter(|raw| !raw.is_empty());
        raw.into_iter()
            .flat_map(move |raw| raw.split(separators.repetition))
            .map(move |raw| Repetition { raw, separators })
    }

    /// Reads the n-th repetition, counted from one.
    pub fn repetition(&self, n: usize) -> Option<Repetition<'m>> {
        nth_part(self.raw, self.separators.repetition, n).map(|raw| Repetition {
            raw,
            separators: self.separators,
        })
    }

    /// Reads the first repetition; of an empty field an empty one.
    pub fn first(&self) -> Repetition<'m> {
        let raw = self
            .raw
            .split(self.separators.repetition)
            .next()
            .unwrap_or_default();
        Repetition {
            raw,
            separators: self.separators,
        }
    }
}

/// One repetition of a field: its components.
#[derive(Clone, Copy)]
pub struct Repetition<'m> {
    raw: &'m str,
    separators: Separators,
}

impl<'m> Repetition<'m> {
    /// Returns the repetition as it stands in the message.
    pub fn raw(&self) -> &'m str {
        self.raw
    }

    /// Reads the whole repetition as text, separators that the sender did not escape included.
    pub fn whole(&self) -> Cow<'m, str> {
        escape::decode(self.raw, self.separators)
    }

    /// Reads the n-th component, counted from one; one that is not there is empty.
    pub fn component(&self, n: usize) -> Component<'m> {
        let raw = nth_part(self.raw, self.separators.component, n).unwrap_or_default();
        Component {
            raw,
            separators: self.separators,
        }
    }

    /// Reads the first subcomponent of the n-th component.
    pub fn text(&self, component: usize) -> Cow<'m, str> {
        self.component(component).subcomponent(1)
    }
}

/// One component: its subcomponents.
#[derive(Clone, Copy)]
pub struct Component<'m> {
    raw: &'m str,
    separators: Separators,
}

impl<'m> Component<'m> {
    /// Reads the n-th subcomponent, decoded; one that is not there is empty.
    pub fn subcomponent(&self, n: usize) -> Cow<'m, str> {
        let raw = nth_part(self.raw, self.separators.subcomponent, n).unwrap_or_default();
        escape::decode(raw, self.separators)
    }

    /// Reads the whole component as text, separators that the sender did not escape included.
    pub fn whole(&self) -> Cow<'m, str> {
        escape::decode(self.raw, self.separators)
    }
}

/// Splits into segments, leaving out empty lines.
fn lines(bytes: &[u8], endings: LineEndings) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(move |byte| *byte == b'\r' || (endings == LineEndings::Any && *byte == b'\n'))
        .filter(|line| !line.is_empty())
}

fn declared_charset(msh: &[u8], separators: Separators) -> Result<Charset, FieldFault> {
    // All separators and all known sets share ASCII, so the field can be found before decoding.
    let is = |separator: char, byte: u8| char::from(byte) == separator;
    let field = msh
        .split(|byte| is(separators.field, *byte))
        .nth(17)
        .unwrap_or_default();
    let first = field
        .split(|byte| is(separators.repetition, *byte))
        .next()
        .unwrap_or_default();
    Charset::declared(first)
}

/// Checks what must hold of a segment's bytes whatever it is.
fn check_line(line: &[u8], nth: usize, separators: Separators) -> Result<(), FieldFault> {
    let (name, rest) = line.split_at_checked(3).unwrap_or((line, b""));
    let named = readable_name(name).is_some()
        && rest
            .first()
            .is_none_or(|byte| char::from(*byte) == separators.field);
    if !named {
        return Err(line_fault(
            line,
            nth,
            "does not begin with a segment's name",
        ));
    }
    if nth > 1 && name == b"MSH" {
        return Err(line_fault(line, nth, "is a second message header"));
    }
    let mut field = usize::from(name == b"MSH");
    for byte in rest {
        if char::from(*byte) == separators.field {
            field += 1;
        } else if byte.is_ascii_control() && *byte != b'\t' {
            let mut fault = line_fault(line, nth, "holds a control character");
            fault.field = Some(field);
            fault.hl7_code = ErrorCode::DataType;
            return Err(fault);
        }
    }
    if field > FIELDS_MAX {
        return Err(line_fault(
            line,
            nth,
            "has more fields than a segment may have",
        ));
    }
    Ok(())
}

fn readable_name(name: &[u8]) -> Option<&str> {
    let first = name.first()?;
    let good = name.len() == 3
        && first.is_ascii_uppercase()
        && name
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if good {
        std::str::from_utf8(name).ok()
    } else {
        None
    }
}

fn line_fault(line: &[u8], nth: usize, rule: &'static str) -> FieldFault {
    match line.get(..3).and_then(readable_name) {
        Some(name) => FieldFault::segment(name, rule, ErrorCode::SegmentSequence),
        None => FieldFault::segment(&format!("#{nth}"), rule, ErrorCode::SegmentSequence),
    }
}

fn message_fault(rule: &'static str, code: ErrorCode) -> FieldFault {
    FieldFault::segment("message", rule, code)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Message {
        Message::parse(text.as_bytes(), LineEndings::Any).unwrap()
    }

    fn refused(bytes: &[u8]) -> FieldFault {
        Message::parse(bytes, LineEndings::Cr).unwrap_err()
    }

    const SMALL: &str =
        "MSH|^~\\&|A|B&1.2.3&ISO|C|D|2026||REF^I12|1|P|2.5\rPID|1||x&y^z~second^two||Te\\T\\st\r";

    #[test]
    fn values_are_read_by_their_place() {
        let message = parsed(SMALL);
        let at = |segment, field, repetition, component, subcomponent| {
            let occurrence = 1;
            message.value(Place {
                segment,
                occurrence,
                field,
                repetition,
                component,
                subcomponent,
            })
        };
        assert_eq!(at("MSH", 1, 1, 1, 1), None, "the separator holds no value");
        assert_eq!(at("MSH", 4, 1, 1, 2).as_deref(), Some("1.2.3"));
        assert_eq!(at("MSH", 9, 1, 2, 1).as_deref(), Some("I12"));
        assert_eq!(at("MSH", 12, 1, 1, 1).as_deref(), Some("2.5"));
        assert_eq!(at("PID", 3, 1, 1, 2).as_deref(), Some("y"));
        assert_eq!(at("PID", 3, 2, 2, 1).as_deref(), Some("two"));
        assert_eq!(at("PID", 5, 1, 1, 1).as_deref(), Some("Te&st"));
        assert_eq!(at("PID", 5, 2, 1, 1), None);
        assert_eq!(at("PID", 90, 1, 1, 1), None);
        assert_eq!(at("PID", 0, 1, 1, 1), None);
        assert_eq!(at("ZZZ", 1, 1, 1, 1), None);
    }

    #[test]
    fn five_separators_of_version_2_7_are_read() {
        let message = parsed("MSH|^~\\&#|A|B|||||REF^I12|1|P|2.8\rNTE|1||a\\P\\b\r");
        assert_eq!(message.separators().truncation, Some('#'));
        assert_eq!(message.segment("NTE", 1).unwrap().text(3, 1), "a#b");
    }

    #[test]
    fn own_separators_of_a_sender_are_obeyed() {
        let message = parsed("MSH:*+!%:A:B:::::REF*I12:1:P:2.5\rPID:1::a%b*c+d!S!e\r");
        let pid = message.segment("PID", 1).unwrap();
        assert_eq!(pid.field(3).first().component(1).subcomponent(2), "b");
        assert_eq!(pid.field(3).repetition(2).unwrap().text(1), "d*e");
    }

    #[test]
    fn files_end_segments_in_three_ways_and_mllp_in_one() {
        for ending in ["\r", "\n", "\r\n"] {
            let text = SMALL.replace('\r', ending);
            assert_eq!(parsed(&text), parsed(SMALL), "{ending:?}");
        }
        let fault = refused(SMALL.replace('\r', "\n").as_bytes());
        assert_eq!((fault.segment.as_str(), fault.field), ("MSH", Some(12)));
        assert_eq!(fault.hl7_code, ErrorCode::DataType);
    }

    #[test]
    fn segments_of_any_name_are_kept_in_order() {
        let message = parsed("MSH|^~\\&|A\rZX1|own|data\rQQ7\rPRT|x\r");
        let names: Vec<_> = message.segments().map(|segment| segment.name()).collect();
        assert_eq!(names, ["MSH", "ZX1", "QQ7", "PRT"]);
        assert_eq!(message.segment("ZX1", 1).unwrap().raw(), "ZX1|own|data");
    }

    #[test]
    fn content_leaves_out_the_envelope_alone() {
        let one = parsed("MSH|^~\\&|A||||2026||REF^I12|1\rSFT|x\rPID|1\rZZ1|y\r");
        let two = parsed("MSH|^~\\&|A||||2027||REF^I12|2\rSFT|z\rPID|1\rZZ1|y\r");
        assert_eq!(one.content(), two.content());
        assert_eq!(one.content(), "PID|1\rZZ1|y\r");
    }

    #[test]
    fn control_characters_are_refused_with_their_place() {
        for (bytes, place) in [
            (&b"MSH|^~\\&|A\rPID|1||a\x0bb\r"[..], "PID-3"),
            (b"MSH|^~\\&|A\rPID|1|\x1c\r", "PID-2"),
            (b"MSH|^~\\&|A\x00\r", "MSH-3"),
            (b"MSH|^~\\&|A\rNTE|1||one\nPID|2\r", "NTE-3"),
        ] {
            assert_eq!(refused(bytes).place(), place);
        }
        assert!(Message::parse(b"MSH|^~\\&|A\tB\r", LineEndings::Cr).is_ok());
        let latin = b"MSH|^~\\&|A|||||||||||||||8859/1\rPID|\x85\r";
        assert_eq!(refused(latin).rule, "holds a control character");
    }

    #[test]
    fn headers_that_cannot_be_read_name_their_field() {
        for (bytes, place) in [
            (&b""[..], "MSH"),
            (b"PID|1\r", "MSH"),
            (b"MSH", "MSH-1"),
            (b"MSHA^~\\&|A", "MSH-1"),
            (b"MSH||A", "MSH-2"),
            (b"MSH|^~|A", "MSH-2"),
            (b"MSH|^~\\^|A", "MSH-2"),
            (b"MSH|^~\\&#x|A", "MSH-2"),
            (b"MSH|^~\\A|A", "MSH-2"),
            (b"MSH|^~\\&|A\rpid|1", "#2"),
            (b"MSH|^~\\&|A\rsecond line of a note", "#2"),
            (b"MSH|^~\\&|A\rMSH|^~\\&|B", "MSH"),
            (b"MSH|^~\\&|A|||||||||||||||KOI8\r", "MSH-18"),
        ] {
            assert_eq!(
                refused(bytes).place(),
                place,
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn declared_character_set_is_obeyed() {
        let latin = b"MSH|^~\\&|A|||||||||||||||8859/1\rPID|Zo\xeb\r";
        let message = Message::parse(latin, LineEndings::Cr).unwrap();
        assert_eq!(message.segment("PID", 1).unwrap().text(1, 1), "Zoë");
        let wrong = b"MSH|^~\\&|A|||||||||||||||UNICODE UTF-8\rPID|Zo\xeb\r";
        assert_eq!(refused(wrong).segment, "PID");
    }

    #[test]
    fn each_bound_holds_at_its_edge() {
        let header = "MSH|^~\\&|A\r";
        let segments = |n: usize| format!("{header}{}", "NTE|1\r".repeat(n - 1));
        assert!(Message::parse(segments(SEGMENTS_MAX).as_bytes(), LineEndings::Cr).is_ok());
        let fault = refused(segments(SEGMENTS_MAX + 1).as_bytes());
        assert_eq!(fault.rule, "has more segments than a message may have");

        let fields = |n: usize| format!("{header}ZZZ{}", "|".repeat(n));
        assert!(Message::parse(fields(FIELDS_MAX).as_bytes(), LineEndings::Cr).is_ok());
        assert_eq!(refused(fields(FIELDS_MAX + 1).as_bytes()).segment, "ZZZ");

        let sized = |n: usize| format!("{header}NTE|{}", "x".repeat(n - header.len() - 4));
        assert!(Message::parse(sized(MESSAGE_BYTES_MAX).as_bytes(), LineEndings::Cr).is_ok());
        assert_eq!(
            refused(sized(MESSAGE_BYTES_MAX + 1).as_bytes()).segment,
            "message"
        );
    }

    #[test]
    fn debug_shows_no_content() {
        let shown = format!("{:?}", parsed(SMALL));
        assert!(!shown.contains("second"), "{shown}");
        assert!(shown.contains("segments: 2"), "{shown}");
    }

    proptest! {
        #[test]
        fn parsing_anything_never_panics_and_keeps_every_segment(
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = b"MSH|^~\\&|A\r".to_vec();
            bytes.extend(&body);
            for endings in [LineEndings::Cr, LineEndings::Any] {
                if let Ok(message) = Message::parse(&bytes, endings) {
                    let kept = lines(&bytes, endings).count();
                    prop_assert_eq!(message.segments().count(), kept);
                    for segment in message.segments() {
                        for field in 0..10 {
                            for repetition in segment.field(field).repetitions() {
                                prop_assert!(!repetition.whole().contains('\r'));
                            }
                        }
                    }
                }
            }
        }

        #[test]
        fn text_of_a_message_parses_to_the_same_message(
            values in prop::collection::vec("[ -~]{0,20}", 1..8),
        ) {
            let text = format!("MSH|^~\\&|A\rZZ1|{}\r", values.join("|"));
            let message = parsed(&text);
            prop_assert_eq!(&parsed(message.text()), &message);
            prop_assert_eq!(message.text(), text);
        }
    }
}
