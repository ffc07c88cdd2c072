//! Avro binary to the members of an event. Reads each byte once, borrows texts, and trusts no length.

use std::borrow::Cow;

use super::plan::{Field, Kind, Plan};
use crate::{
    members::{Data, Members},
    scan::Scalar,
};

/// Why the bytes are not of their schema.
pub(super) struct Fault {
    /// Byte of the Avro binary.
    pub(super) at: usize,
    /// What is wrong.
    pub(super) what: &'static str,
    /// Field that was read.
    pub(super) field: Option<String>,
}

type Read<T> = Result<T, &'static str>;

/// Reads one event, which takes up all of `body`.
pub(super) fn event<'a>(plan: &'a Plan, body: &'a [u8]) -> Result<Members<'a>, Fault> {
    let mut reader = Reader { bytes: body, at: 0 };
    let mut members = Members { envelope: Vec::with_capacity(plan.fields.len()), data: None };
    for field in &plan.fields {
        reader.attribute(field, &mut members).map_err(|what| Fault {
            at: reader.at,
            what,
            field: Some(field.name.clone()),
        })?;
    }
    if reader.at < body.len() {
        return Err(Fault { at: reader.at, what: "bytes are left over", field: None });
    }
    Ok(members)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn attribute(&mut self, field: &'a Field, members: &mut Members<'a>) -> Read<()> {
        let start = self.at;
        let kind = self.branch(&field.kind)?;
        if field.name != "data" {
            return match kind {
                Kind::Map(values) => self.entries(values, &mut members.envelope),
                kind => {
                    let scalar = self.scalar(kind)?;
                    members.envelope.push((&field.name, scalar));
                    Ok(())
                }
            };
        }
        let mut data = Data { hashed: &[], text: None, members: Vec::new(), objects: Vec::new() };
        match kind {
            Kind::Null => return Ok(()),
            Kind::Map(values) => self.entries(values, &mut data.members)?,
            Kind::Record(fields) => {
                data.members.reserve(fields.len());
                for field in fields {
                    match self.branch(&field.kind)? {
                        Kind::Null => {}
                        Kind::Map(values) => {
                            let mut inner = Vec::new();
                            self.entries(values, &mut inner)?;
                            data.objects.push((&field.name, inner));
                        }
                        kind => data.members.push((&field.name, self.scalar(kind)?)),
                    }
                }
            }
            _ => return Err("`data` is a record or a map"),
        }
        data.hashed = &self.bytes[start..self.at];
        members.data = Some(data);
        Ok(())
    }

    /// Steps into a union.
    fn branch(&mut self, kind: &'a Kind) -> Read<&'a Kind> {
        let mut kind = kind;
        while let Kind::Union(branches) = kind {
            let branch = usize::try_from(self.long()?).ok().and_then(|branch| branches.get(branch));
            kind = branch.ok_or("a union has no such branch")?;
        }
        Ok(kind)
    }

    fn scalar(&mut self, kind: &'a Kind) -> Read<Scalar<'a>> {
        Ok(match self.branch(kind)? {
            Kind::Null => Scalar::Null,
            Kind::Bool => match self.take(1)? {
                [0] => Scalar::Bool(false),
                [1] => Scalar::Bool(true),
                _ => return Err("a boolean is 0 or 1"),
            },
            Kind::Int => Scalar::Int(self.long()?),
            Kind::Float => {
                let bytes = self.take(4)?.try_into().expect("as many as were asked for");
                finite(f64::from(f32::from_le_bytes(bytes)))?
            }
            Kind::Double => finite(f64::from_le_bytes(self.take(8)?.try_into().expect("as many as were asked for")))?,
            Kind::Text => Scalar::Text(Cow::Borrowed(self.text()?)),
            Kind::Enum(symbols) => {
                let symbol = usize::try_from(self.long()?).ok().and_then(|symbol| symbols.get(symbol));
                Scalar::Text(Cow::Borrowed(symbol.ok_or("an enum has no such symbol")?))
            }
            Kind::Time { unit_us } => {
                Scalar::Time(self.long()?.checked_mul(*unit_us).ok_or("a time is out of its range")?)
            }
            Kind::Map(_) | Kind::Record(_) | Kind::Union(_) => return Err("nested where a scalar belongs"),
        })
    }

    /// Entries of a map, in blocks (Avro specification, "Maps").
    fn entries(&mut self, values: &'a Kind, into: &mut Vec<(&'a str, Scalar<'a>)>) -> Read<()> {
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The block's length in bytes follows, for those that skip it.
                self.long()?;
                count = count.checked_neg().ok_or("a block of a map is too long")?;
            }
            for _ in 0..count {
                let key = self.text()?;
                into.push((key, self.scalar(values)?));
            }
        }
    }

    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or("a length is out of its range")?;
        let taken = self.bytes.get(self.at..end).ok_or("it is cut off")?;
        self.at = end;
        Ok(taken)
    }

    fn text(&mut self) -> Read<&'a str> {
        let length = usize::try_from(self.long()?).map_err(|_| "a length is negative")?;
        std::str::from_utf8(self.take(length)?).map_err(|_| "a text is not UTF-8")
    }

    /// A number in zig-zag coding, seven bits a byte, the lowest first.
    fn long(&mut self) -> Read<i64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or("it is cut off")?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err("a number has more than 64 bits")
    }
}

/// JSON has no NaN and no infinity (R10).
fn finite<'a>(value: f64) -> Read<Scalar<'a>> {
    if value.is_finite() { Ok(Scalar::Float(value)) } else { Err("a number is not finite") }
}
