//! The character set a message declares in MSH-18, and reading its bytes as text.

use super::fault::{ErrorCode, FieldFault};
use super::separators::Separators;

/// A character set of HL7 table 0211 that this reader knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// Nothing declared: ASCII, and UTF-8 as its superset.
    Undeclared,
    /// `ASCII`: seven bits and nothing else.
    Ascii,
    /// `UNICODE UTF-8`.
    Utf8,
    /// `8859/1`: Latin-1, a byte a character.
    Latin1,
}

impl Charset {
    /// Reads what MSH-18 says.
    ///
    /// # Errors
    /// A fault at MSH-18 for a set that is not supported.
    pub fn declared(msh18: &[u8]) -> Result<Self, FieldFault> {
        let name = msh18.trim_ascii();
        if name.is_empty() {
            Ok(Self::Undeclared)
        } else if name.eq_ignore_ascii_case(b"ASCII") {
            Ok(Self::Ascii)
        } else if [&b"UNICODE UTF-8"[..], b"UTF-8", b"UTF8"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
        {
            Ok(Self::Utf8)
        } else if name.eq_ignore_ascii_case(b"8859/1") {
            Ok(Self::Latin1)
        } else {
            Err(FieldFault::field(
                "MSH",
                18,
                "names a character set that is not supported",
                ErrorCode::TableValueNotFound,
            ))
        }
    }

    /// Reads one segment's bytes as text, or says which rule they break.
    pub fn decode(self, bytes: &[u8]) -> Result<String, &'static str> {
        match self {
            Self::Ascii if !bytes.is_ascii() => Err("holds a byte outside the declared ASCII"),
            Self::Undeclared => String::from_utf8(bytes.to_vec())
                .map_err(|_| "holds bytes that are not ASCII, and MSH-18 declares nothing else"),
            Self::Ascii | Self::Utf8 => String::from_utf8(bytes.to_vec())
                .map_err(|_| "holds bytes that are not the declared UTF-8"),
            Self::Latin1 => Ok(bytes.iter().copied().map(char::from).collect()),
        }
    }
}

impl Charset {
    /// Reads the name of a set that we write.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Ascii, Self::Utf8, Self::Latin1]
            .into_iter()
            .find(|set| set.name() == name)
    }

    /// What stands in MSH-18.
    pub fn name(self) -> &'static str {
        match self {
            Self::Undeclared => "",
            Self::Ascii => "ASCII",
            Self::Utf8 => "UNICODE UTF-8",
            Self::Latin1 => "8859/1",
        }
    }

    /// Writes a whole message in this set. Typographic marks become their plain forms where the set has none; a letter
    /// that the set does not have is refused, for a name with another letter is another name.
    ///
    /// # Errors
    /// Where the letter stands, and never which it is.
    pub fn encode(self, message: &str) -> Result<Vec<u8>, FieldFault> {
        let highest = match self {
            Self::Utf8 | Self::Undeclared => return Ok(message.as_bytes().to_vec()),
            Self::Ascii => '\u{7f}',
            Self::Latin1 => '\u{ff}',
        };
        let mut bytes = Vec::with_capacity(message.len());
        for segment in message.split_inclusive('\r') {
            let mut field = usize::from(segment.starts_with("MSH"));
            for c in segment.chars() {
                field += usize::from(c == Separators::STANDARD.field);
                if c <= highest {
                    bytes.extend(u8::try_from(u32::from(c)));
                    continue;
                }
                let Some(plain) = plain(c) else {
                    let name = segment.get(..3).unwrap_or_default();
                    let rule = format!("holds a letter that {} does not have", self.name());
                    let code = ErrorCode::DataType;
                    return Err(FieldFault::field(name, field, rule, code));
                };
                bytes.extend_from_slice(plain.as_bytes());
            }
        }
        Ok(bytes)
    }
}

/// The plain form of a typographic mark, which means the same.
fn plain(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{2032}' => "'",
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{2033}' => "\"",
        '\u{2010}'..='\u{2015}' | '\u{2212}' => "-",
        '\u{2022}' | '\u{00b7}' => "*",
        '\u{2026}' => "...",
        '\u{00a0}' | '\u{2002}'..='\u{200a}' | '\u{202f}' => " ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_names_are_known_and_others_refused_at_msh_18() {
        assert_eq!(Charset::declared(b""), Ok(Charset::Undeclared));
        assert_eq!(Charset::declared(b"ASCII"), Ok(Charset::Ascii));
        assert_eq!(Charset::declared(b"UNICODE UTF-8"), Ok(Charset::Utf8));
        assert_eq!(Charset::declared(b"8859/1"), Ok(Charset::Latin1));
        let fault = Charset::declared(b"ISO IR87").unwrap_err();
        assert_eq!(fault.place(), "MSH-18");
        assert_eq!(fault.hl7_code, ErrorCode::TableValueNotFound);
    }

    #[test]
    fn each_set_reads_its_own_bytes_and_refuses_others() {
        assert_eq!(Charset::Latin1.decode(b"Zo\xeb").unwrap(), "Zoë");
        assert_eq!(Charset::Utf8.decode("Zoë".as_bytes()).unwrap(), "Zoë");
        assert_eq!(Charset::Undeclared.decode("Zoë".as_bytes()).unwrap(), "Zoë");
        assert!(Charset::Utf8.decode(b"Zo\xeb").is_err());
        assert!(Charset::Undeclared.decode(b"Zo\xeb").is_err());
        assert!(Charset::Ascii.decode("Zoë".as_bytes()).is_err());
        assert_eq!(Charset::Ascii.decode(b"Zoe").unwrap(), "Zoe");
    }

    #[test]
    fn each_set_writes_what_it_reads_and_refuses_letters_it_does_not_have() {
        let message = "MSH|^~\\&|A\rPID|1||2||Zoë – Test\r";
        assert_eq!(Charset::Utf8.encode(message).unwrap(), message.as_bytes());
        let latin = Charset::Latin1.encode(message).unwrap();
        assert_eq!(latin, b"MSH|^~\\&|A\rPID|1||2||Zo\xeb - Test\r");
        let fault = Charset::Ascii.encode(message).unwrap_err();
        assert_eq!(fault.place(), "PID-5");
        assert!(!fault.to_string().contains('ë'));
        let fault = Charset::Latin1.encode("MSH|^~\\&|Ł\r").unwrap_err();
        assert_eq!(fault.place(), "MSH-3");
        let plain = Charset::Ascii.encode("\u{201c}it\u{2019}s\u{a0}so\u{2026}\u{201d}");
        assert_eq!(plain.unwrap(), b"\"it's so...\"");
    }

    #[test]
    fn every_name_that_is_written_is_read() {
        for set in [Charset::Ascii, Charset::Utf8, Charset::Latin1] {
            assert_eq!(Charset::declared(set.name().as_bytes()), Ok(set));
            assert_eq!(Charset::from_name(set.name()), Some(set));
        }
        assert_eq!(Charset::from_name("8859/2"), None);
    }
}
