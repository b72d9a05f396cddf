//! The character set a message declares in MSH-18, and reading its bytes as text.

use super::fault::{ErrorCode, FieldFault};

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
}
