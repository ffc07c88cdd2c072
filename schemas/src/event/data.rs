//! An event's data, read by the schema of its type.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    Cause, Rejection, Value,
    envelope::Envelope,
    scalars::{Name, decimal, extension, int, kept, text, wrong_type},
    whole,
};
use crate::{
    registry::{EventSpec, FieldType},
    scan::{Member, Scalar, object},
};

impl<'a> Envelope<'a> {
    /// Reads `data`, a JSON object, by its type's `spec`.
    pub(super) fn take_data(&mut self, spec: &EventSpec, data: &'a str) -> Result<(), Rejection> {
        let nested = |key: &str| spec.field(key).is_some_and(|(_, field)| field.field_type == FieldType::Object);
        let mut met = 0_u64;
        // Clients write members in the order of the schema, with some left out.
        let mut guess = 0;
        // Where a field is an object, its value is read raw.
        let nests = || spec.fields.iter().any(|field| field.field_type == FieldType::Object);
        let plain = self.members.take().filter(|data| data.text.is_none() || !nests());
        let mut take = |key: Cow<'a, str>, member: Member<'a>| {
            let name = Name::data(&key);
            let Some((index, field)) = spec.field_from(guess, &key) else {
                let Member::Scalar(scalar) = member else { unreachable!("only known objects are read raw") };
                return extension(&mut self.ext, name, scalar);
            };
            guess = index + 1;
            let scalar = match member {
                Member::Raw(raw) => {
                    met |= 1 << index;
                    return nested_object(&mut self.ext, &key, raw.get());
                }
                Member::Scalar(Scalar::Null) => return Ok(()),
                Member::Scalar(scalar) => scalar,
            };
            met |= 1 << index;
            let value = match &field.field_type {
                FieldType::Text { max_chars } => Value::Text(text(name, scalar, *max_chars)?),
                FieldType::Enum(values) => {
                    let text = text(name, scalar, 256)?;
                    if !values.iter().any(|value| *value == text) {
                        let detail = format!("`{name}` takes one of {}", values.join(", "));
                        return Err(name.rejected(Cause::OutOfRange, detail));
                    }
                    Value::Text(text)
                }
                FieldType::Int { min, max } => match int(name, &scalar, *min, *max)? {
                    Some(value) => Value::Int(value),
                    None => return Ok(()),
                },
                FieldType::Bool => match scalar {
                    Scalar::Bool(value) => Value::Bool(value),
                    _ => return Err(wrong_type(name, "true or false")),
                },
                FieldType::Decimal { signed } => Value::Decimal(decimal(name, &scalar, *signed)?),
                FieldType::Object => return Err(wrong_type(name, "an object of scalars")),
            };
            self.put(field.column.expect("every scalar field has a column"), name, value)
        };
        match plain {
            Some(data) => {
                for (key, scalar) in data.members {
                    take(Cow::Borrowed(key), Member::Scalar(scalar))?;
                }
                for (key, scalars) in data.objects {
                    match spec.field(key) {
                        Some((index, field)) if field.field_type == FieldType::Object => {
                            met |= 1 << index;
                            keep_object(&mut self.ext, key, scalars)?;
                        }
                        Some((_, field)) => return Err(wrong_type(Name::data(&field.name), "a scalar")),
                        None => extension(&mut self.ext, Name::data(key), Scalar::Nested)?,
                    }
                }
            }
            None => object(data, nested, take).map_err(|error| whole(error, Some("data")))?,
        }
        for (index, field) in spec.fields.iter().enumerate() {
            if field.required && met & (1 << index) == 0 {
                let name = Name::data(&field.name);
                return Err(name.rejected(Cause::Missing, format!("`{name}` is missing")));
            }
        }
        Ok(())
    }
}

/// Keeps an object of scalars, whole; its names are the vendor's own.
fn nested_object(ext: &mut BTreeMap<String, serde_json::Value>, key: &str, raw: &str) -> Result<(), Rejection> {
    let mut kept = BTreeMap::new();
    let read = object(
        raw,
        |_| false,
        |inner, member| {
            let Member::Scalar(scalar) = member else { unreachable!("nothing is read raw here") };
            keep(&mut kept, key, &inner, scalar)
        },
    );
    read.map_err(|error| whole(error, Some(&Name::data(key).to_string())))?;
    put_object(ext, key, kept)
}

/// The same of an object that was read already.
fn keep_object(
    ext: &mut BTreeMap<String, serde_json::Value>,
    key: &str,
    scalars: Vec<(&str, Scalar<'_>)>,
) -> Result<(), Rejection> {
    let mut kept = BTreeMap::new();
    for (inner, scalar) in scalars {
        keep(&mut kept, key, inner, scalar)?;
    }
    put_object(ext, key, kept)
}

fn keep(
    kept_so_far: &mut BTreeMap<String, serde_json::Value>,
    key: &str,
    inner: &str,
    scalar: Scalar<'_>,
) -> Result<(), Rejection> {
    let inner_key = format!("{key}.{inner}");
    let name = Name::data(&inner_key);
    let value = kept(name, scalar)?;
    if kept_so_far.insert(inner.chars().take(256).collect(), value).is_some() { Err(name.twice()) } else { Ok(()) }
}

fn put_object(
    ext: &mut BTreeMap<String, serde_json::Value>,
    key: &str,
    object: BTreeMap<String, serde_json::Value>,
) -> Result<(), Rejection> {
    if ext.insert(key.to_owned(), serde_json::json!(object)).is_some() { Err(Name::data(key).twice()) } else { Ok(()) }
}
