//! HL7 v2 escape sequences (chapter 2, "use of escape sequences in text fields").
//!
//! Decoded text has `\n` for a line break and `\t` for a tab, and no other control character: whatever
//! a sender hides in `\Xhh\` cannot start a segment when the text is written again.

use std::borrow::Cow;

use super::separators::Separators;

/// Decodes the escape sequences of one value. Sequences that are not known stay as they are written.
pub fn decode(raw: &str, separators: Separators) -> Cow<'_, str> {
    if !raw.contains(separators.escape) {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once(separators.escape) {
        text.push_str(before);
        let Some((sequence, behind)) = after.split_once(separators.escape) else {
            text.push(separators.escape);
            rest = after;
            break;
        };
        if decode_sequence(sequence, separators, &mut text) {
            rest = behind;
        } else {
            // A lone escape character: what follows may still begin a real sequence.
            text.push(separators.escape);
            rest = after;
        }
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// Appends what one sequence stands for; false when it is not a sequence that is known.
fn decode_sequence(sequence: &str, separators: Separators, text: &mut String) -> bool {
    match sequence {
        "F" => text.push(separators.field),
        "S" => text.push(separators.component),
        "T" => text.push(separators.subcomponent),
        "R" => text.push(separators.repetition),
        "E" => text.push(separators.escape),
        "P" => text.push(separators.truncation.unwrap_or('#')),
        // Highlighting and filling carry no words.
        "H" | "N" | ".fi" | ".nf" => {}
        ".br" | ".sp" | ".ce" => text.push('\n'),
        _ => return decode_parameterised(sequence, text),
    }
    true
}

fn decode_parameterised(sequence: &str, text: &mut String) -> bool {
    if let Some(digits) = sequence.strip_prefix('X') {
        let Some(bytes) = hex_bytes(digits) else {
            return false;
        };
        push_without_controls(&bytes, text);
        return true;
    }
    let number = [".sp", ".in", ".ti", ".sk"]
        .iter()
        .find_map(|name| sequence.strip_prefix(name).map(|rest| (*name, rest)));
    match number {
        Some((name, rest)) if is_layout_number(rest) => {
            text.push(if name == ".sp" { '\n' } else { ' ' });
            true
        }
        _ => false,
    }
}

fn is_layout_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    !digits.is_empty() && digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn hex_bytes(digits: &str) -> Option<Vec<u8>> {
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// Appends bytes given in hexadecimal: as UTF-8 where they are, else as Latin-1.
fn push_without_controls(bytes: &[u8], text: &mut String) {
    let decoded = std::str::from_utf8(bytes).map_or_else(
        |_| Cow::Owned(bytes.iter().copied().map(char::from).collect::<String>()),
        Cow::Borrowed,
    );
    let lines = decoded.replace("\r\n", "\n").replace('\r', "\n");
    text.extend(
        lines
            .chars()
            .filter(|c| matches!(c, '\n' | '\t') || !c.is_control()),
    );
}

/// Encodes one value for the wire: separators escaped, line breaks as `\.br\`, a tab as `\X09\`,
/// every other control character left out.
pub fn encode(text: &str, separators: Separators, wire: &mut String) {
    let escape = separators.escape;
    let mut previous_cr = false;
    for c in text.chars() {
        let sequence = match c {
            '\n' if previous_cr => "",
            '\n' | '\r' => ".br",
            '\t' => "X09",
            _ if c == separators.field => "F",
            _ if c == separators.component => "S",
            _ if c == separators.subcomponent => "T",
            _ if c == separators.repetition => "R",
            _ if c == escape => "E",
            _ if Some(c) == separators.truncation => "P",
            _ => {
                if !c.is_control() {
                    wire.push(c);
                }
                ""
            }
        };
        previous_cr = c == '\r';
        if !sequence.is_empty() {
            wire.push(escape);
            wire.push_str(sequence);
            wire.push(escape);
        }
    }
}

/// Cuts a text so that, encoded, it has at most so many characters.
pub fn cut(text: &str, separators: Separators, encoded_chars_max: usize) -> &str {
    let mut room = encoded_chars_max;
    let mut wire = String::new();
    for (at, c) in text.char_indices() {
        wire.clear();
        encode(c.encode_utf8(&mut [0; 4]), separators, &mut wire);
        match room.checked_sub(wire.chars().count()) {
            Some(left) => room = left,
            None => return text.get(..at).unwrap_or_default(),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(raw: &str) -> String {
        decode(raw, Separators::STANDARD).into_owned()
    }

    fn encoded(text: &str) -> String {
        let mut wire = String::new();
        encode(text, Separators::STANDARD, &mut wire);
        wire
    }

    #[test]
    fn known_sequences_are_decoded() {
        for (raw, text) in [
            (r"a\F\b\S\c\T\d\R\e\E\f", "a|b^c&d~e\\f"),
            (r"line one\.br\line two", "line one\nline two"),
            (r"\X41\\X42\", "AB"),
            (r"\XC3AB\", "ë"),
            (r"\XEB\", "ë"),
            (r"\H\loud\N\ quiet", "loud quiet"),
            (r"\P\", "#"),
            (r"a\.sp2\b", "a\nb"),
            (r"a\.in+4\b", "a b"),
        ] {
            assert_eq!(decoded(raw), text, "{raw}");
        }
    }

    #[test]
    fn unknown_and_unfinished_sequences_stay_as_written() {
        for raw in [
            r"C:\dir",
            r"\Zlocal\",
            r"\X4\",
            r"\XGG\",
            r"\C2842\",
            r"\",
            r"\\",
        ] {
            assert_eq!(decoded(raw), raw, "{raw}");
        }
        assert_eq!(decoded(r"C:\dir\T\x"), r"C:\dir&x");
    }

    #[test]
    fn control_characters_hidden_in_hexadecimal_cannot_start_a_segment() {
        assert_eq!(decoded(r"a\X0D\PID|1"), "a\nPID|1");
        assert_eq!(decoded(r"a\X0D0A\b"), "a\nb");
        assert_eq!(decoded(r"a\X0B1C00\b"), "ab");
        assert_eq!(encoded("a\rPID|1\u{b}\u{1c}"), r"a\.br\PID\F\1");
        assert_eq!(encoded("a\r\nb"), r"a\.br\b");
    }

    #[test]
    fn cut_counts_what_stands_on_the_wire_and_splits_no_sequence() {
        let cut = |text, max| cut(text, Separators::STANDARD, max);
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abc", 2), "ab");
        assert_eq!(cut("a|b", 4), "a|");
        assert_eq!(cut("a|b", 3), "a");
        assert_eq!(cut("Zoë", 3), "Zoë");
    }

    proptest! {
        #[test]
        fn any_text_without_controls_survives_the_wire(
            text in "([^\\p{Cc}]|\n|\t){0,60}",
            truncation in prop::bool::ANY,
        ) {
            let separators = Separators {
                truncation: truncation.then_some('#'),
                ..Separators::STANDARD
            };
            let mut wire = String::new();
            encode(&text, separators, &mut wire);
            prop_assert!(!wire.contains(['|', '^', '~', '&', '\r', '\n']));
            prop_assert_eq!(decode(&wire, separators), text);
        }

        #[test]
        fn decoding_anything_yields_no_control_but_line_break_and_tab(raw in "[^\\p{Cc}]{0,60}") {
            let text = decoded(&raw);
            prop_assert!(text.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()));
        }
    }
}
