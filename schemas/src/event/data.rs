//! An event's data, read by the schema of its type.

use std::collections::BTreeMap;

use super::{
    Cause, MAX_EXT_CHARS, Rejection, Value,
    envelope::Envelope,
    scalars::{Name, decimal, extension, int, text, wrong_type},
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
        object(data, nested, |key, member| {
            let name = Name::data(&key);
            let Some((index, field)) = spec.field(&key) else {
                let Member::Scalar(scalar) = member else { unreachable!("only known objects are read raw") };
                return extension(&mut self.ext, name, scalar);
            };
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
                FieldType::Object => unreachable!("objects are read raw"),
            };
            self.put(field.column.expect("every scalar field has a column"), name, value)
        })
        .map_err(|error| whole(error, Some("data")))?;
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
    let name = Name::data(key);
    let mut kept: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    object(
        raw,
        |_| false,
        |inner, member| {
            let inner_key = format!("{key}.{inner}");
            let inner_name = Name::data(&inner_key);
            let Member::Scalar(scalar) = member else { unreachable!("nothing is read raw here") };
            let value = match scalar {
                Scalar::Null => serde_json::Value::Null,
                Scalar::Bool(value) => value.into(),
                Scalar::Int(value) => value.into(),
                Scalar::Float(value) => value.into(),
                Scalar::Nested => return Err(wrong_type(inner_name, "a scalar")),
                scalar @ Scalar::Text(_) => text(inner_name, scalar, MAX_EXT_CHARS)?.into_owned().into(),
            };
            if kept.insert(inner.chars().take(256).collect(), value).is_some() {
                return Err(inner_name.twice());
            }
            Ok(())
        },
    )
    .map_err(|error| whole(error, Some(&name.to_string())))?;
    if ext.insert(key.to_owned(), serde_json::json!(kept)).is_some() {
        return Err(name.twice());
    }
    Ok(())
}
