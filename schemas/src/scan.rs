//! JSON scalars and objects, read without building a tree: text borrows from the input wherever it has no escapes.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON value as far as events need it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// A number that is no `i64`.
    Float(f64),
    Text(Cow<'a, str>),
    /// A time (µs, UTC): Avro has them, JSON does not.
    Time(i64),
    /// An array or object, skipped.
    Nested,
}

/// Text that borrows where it can; `Cow`'s own implementation always copies.
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Scalar::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Int(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(value).map_or(Scalar::Float(value as f64), Scalar::Int))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Float(value))
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Nested)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Nested)
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// The value of one key: the visitor of an object decides by the key how to read it.
pub(crate) enum Member<'a> {
    Scalar(Scalar<'a>),
    Raw(&'a serde_json::value::RawValue),
}

/// Why an object could not be read.
pub(crate) enum ObjectError<E> {
    Json(serde_json::Error),
    NotAnObject,
    Member(E),
}

/// Reads the object in `text`, giving each member to `member(key, value)` in order; `raw(key)` asks for the member's
/// text in place of a scalar. Stops at the first error of `member`, but still checks the rest for syntax.
pub(crate) fn object<'a, E>(
    text: &'a str,
    raw: impl Fn(&str) -> bool,
    member: impl FnMut(Cow<'a, str>, Member<'a>) -> Result<(), E>,
) -> Result<(), ObjectError<E>> {
    struct Object<R, M, E> {
        raw: R,
        member: M,
        failed: std::marker::PhantomData<E>,
    }
    impl<'de, R, M, E> Visitor<'de> for Object<R, M, E>
    where
        R: Fn(&str) -> bool,
        M: FnMut(Cow<'de, str>, Member<'de>) -> Result<(), E>,
    {
        type Value = Result<(), E>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut outcome = Ok(());
            while let Some(Text(key)) = map.next_key()? {
                if outcome.is_err() {
                    map.next_value::<IgnoredAny>()?;
                } else {
                    let value = if (self.raw)(&key) {
                        Member::Raw(map.next_value()?)
                    } else {
                        Member::Scalar(map.next_value()?)
                    };
                    outcome = (self.member)(key, value);
                }
            }
            Ok(outcome)
        }
    }
    impl<'de, R, M, E> DeserializeSeed<'de> for Object<R, M, E>
    where
        R: Fn(&str) -> bool,
        M: FnMut(Cow<'de, str>, Member<'de>) -> Result<(), E>,
    {
        type Value = Result<(), E>;
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_map(self)
        }
    }
    if !text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return Err(ObjectError::NotAnObject);
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let outcome = Object { raw, member, failed: std::marker::PhantomData }
        .deserialize(&mut deserializer)
        .map_err(ObjectError::Json)?;
    deserializer.end().map_err(ObjectError::Json)?;
    outcome.map_err(ObjectError::Member)
}
