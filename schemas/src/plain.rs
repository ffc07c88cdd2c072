//! Events in the form that nearly all have, read three times as fast as by serde_json: an object of scalars and one nested
//! object, `data`, of scalars; texts without escapes.
//!
//! Whatever has another form, valid JSON or not, is `None` here and left to [`crate::scan`], which also words the faults. So
//! serde_json alone decides what JSON is: a property test holds that both give the same members.
//! Source: RFC 8259.

use std::borrow::Cow;

use crate::{
    members::{Data, Members},
    scan::Scalar,
};

/// Members that an event has at most, for a start.
const MEMBERS: usize = 24;

/// Reads `text`, one event.
pub(crate) fn read(text: &str) -> Option<Members<'_>> {
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0 };
    let mut plain = Members { envelope: Vec::with_capacity(MEMBERS), data: None };
    reader.object(|reader, key| {
        if key == "data" {
            let start = reader.at;
            let mut members = Vec::with_capacity(MEMBERS);
            reader.object(|reader, key| {
                members.push((key, reader.scalar()?));
                Some(())
            })?;
            let text = &text[start..reader.at];
            let data = Data { hashed: text.as_bytes(), text: Some(text), members, objects: Vec::new() };
            return plain.data.replace(data).is_none().then_some(());
        }
        plain.envelope.push((key, reader.scalar()?));
        Some(())
    })?;
    reader.space();
    (reader.at == text.len()).then_some(plain)
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// Steps over `byte`, which must come next.
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.bytes.get(self.at) == Some(&byte)).then(|| self.at += 1)
    }

    /// Reads an object; `member(self, key)` reads the value.
    fn object(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.space();
        self.expect(b'{')?;
        self.space();
        if self.expect(b'}').is_some() {
            return Some(());
        }
        loop {
            let key = self.quoted()?;
            self.space();
            self.expect(b':')?;
            self.space();
            member(self, key)?;
            self.space();
            match self.bytes.get(self.at) {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
            self.space();
        }
    }

    /// Reads a text without escapes.
    fn quoted(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let start = self.at;
        self.at = end_of_text(self.bytes, start)?;
        let text = &self.text[start..self.at];
        self.at += 1;
        Some(text)
    }

    fn scalar(&mut self) -> Option<Scalar<'a>> {
        let (literal, scalar) = match self.bytes.get(self.at)? {
            b'"' => return self.quoted().map(|text| Scalar::Text(Cow::Borrowed(text))),
            b'-' | b'0'..=b'9' => return self.number(),
            b't' => ("true", Scalar::Bool(true)),
            b'f' => ("false", Scalar::Bool(false)),
            b'n' => ("null", Scalar::Null),
            _ => return None,
        };
        let rest = &self.bytes[self.at..];
        rest.starts_with(literal.as_bytes()).then(|| {
            self.at += literal.len();
            scalar
        })
    }

    fn number(&mut self) -> Option<Scalar<'a>> {
        let start = self.at;
        let length = self.bytes[start..]
            .iter()
            .take_while(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
            .count();
        self.at += length;
        let digits = &self.bytes[start..self.at];
        // Up to 18 digits fit an i64; one that begins with 0 is 0 or no number.
        let plain = digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit) && (digits[0] != b'0' || length == 1);
        if plain {
            return Some(Scalar::Int(digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))));
        }
        serde_json::from_str(&self.text[start..self.at]).ok()
    }
}

/// The first quote from `start` on, if no escape and no control character comes before it.
fn end_of_text(bytes: &[u8], start: usize) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // The highest bit of each byte that is zero; above the lowest such byte there may be others, which are not looked at.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let mut at = start;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        let quotes = zeros(word ^ (ONES * u64::from(b'"')));
        let escapes = zeros(word ^ (ONES * u64::from(b'\\')));
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let special = quotes | escapes | controls;
        if special != 0 {
            let at = at + special.trailing_zeros() as usize / 8;
            return (bytes[at] == b'"').then_some(at);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
    (rest[end] == b'"').then_some(at + end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scan::{Member, object};

    /// What serde_json gives for a text that is plain; `None` where it finds no such JSON.
    fn by_library(text: &str) -> Option<Members<'_>> {
        let scalars = |text| {
            let mut members = Vec::new();
            let all = object::<()>(
                text,
                |_| false,
                |key, member| {
                    let (Cow::Borrowed(key), Member::Scalar(scalar)) = (key, member) else { return Err(()) };
                    members.push((key, scalar));
                    Ok(())
                },
            );
            all.ok().map(|()| members)
        };
        let (mut envelope, mut data) = (Vec::new(), None);
        let all = object::<()>(
            text,
            |key| key == "data",
            |key, member| {
                match (key, member) {
                    (Cow::Borrowed(key), Member::Scalar(scalar)) => envelope.push((key, scalar)),
                    (_, Member::Raw(raw)) if data.is_none() => {
                        let members = scalars(raw.get()).ok_or(())?;
                        data = Some(Data {
                            hashed: raw.get().as_bytes(),
                            text: Some(raw.get()),
                            members,
                            objects: Vec::new(),
                        });
                    }
                    _ => return Err(()),
                }
                Ok(())
            },
        );
        all.ok().map(|()| Members { envelope, data })
    }

    fn check(text: &str) {
        if let Some(plain) = read(text) {
            assert_eq!(Some(plain), by_library(text), "{text}");
        }
    }

    #[test]
    fn what_clients_send_is_plain() {
        let text = r#" {"id":"ü – 1", "n":12,"m":-3 ,"f":1.5e3,"t":true,"data":{ "a" : null,"b":"long enough for a word" },"z":false} "#;
        let plain = read(text).expect("plain");
        assert_eq!(plain.envelope.len(), 6);
        assert_eq!(
            plain.data.as_ref().and_then(|data| data.text),
            Some(r#"{ "a" : null,"b":"long enough for a word" }"#)
        );
        check(text);
        for text in ["{}", r#"{"data":{}}"#] {
            assert!(read(text).is_some(), "{text}");
            check(text);
        }
    }

    #[test]
    fn the_rest_is_left_to_the_library() {
        for text in [
            "",
            "{",
            "[]",
            "null",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":+1}",
            "{\"a\":1 2}",
            "{\"a\" 1}",
            "{,}",
            "{\"a\":nul}",
            "{\"a\":truex}",
            "{\"a\":\"\\n\"}",
            "{\"a\":\"\n\"}",
            "{\"a\":[1]}",
            "{\"a\":{}}",
            "{\"data\":1}",
            "{\"data\":{},\"data\":{}}",
            "{\"data\":{\"a\":{}}}",
            "{\"a\":1}x",
            "{\"a\":\"b",
            "{\"a\":\"12345678",
            "{\"a\":-}",
            "{\"a\":1.}",
            "{\"a\":1e}",
            "{\"\\u0061\":1}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn plain_events_read_as_the_library_reads_them(
            members in prop::collection::vec(("[a-c\"\\\\é]{0,9}|data", value()), 0..6),
            edits in prop::collection::vec((0..400_usize, "[{}\\[\\]\",:0-9eE.+\\\\ \\x00-\\x1fé-]"), 0..3),
        ) {
            let members: Vec<String> = members.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            let mut text = format!("{{{}}}", members.join(", "));
            check(&text);
            for (at, edit) in edits {
                let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
                let at = places[at % places.len()];
                let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
                text.replace_range(at..end, &edit);
                if text.is_empty() {
                    break;
                }
                check(&text);
            }
        }
    }

    fn value() -> impl Strategy<Value = String> {
        let scalar =
            "-?[0-9]{1,20}|-?[0-9]{1,3}(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?|true|false|null|\"[ -~é\\x7f]{0,20}\"";
        prop_oneof![
            4 => scalar.prop_map(|text: String| text),
            1 => prop::collection::vec(("[a-c]{0,9}", scalar), 0..4).prop_map(|members| {
                let members: Vec<String> = members.into_iter().map(|(key, value)| format!(" \"{key}\" :{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    }
}
