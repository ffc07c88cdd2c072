//! A batch of `events`, its columns downcast once: what the walk then touches per row is plain memory.

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Decimal128Array, Int64Array, RecordBatch,
        StringViewArray, make_view,
    },
    buffer::ScalarBuffer,
    compute::cast,
    datatypes::{DataType, Decimal128Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType},
};

use crate::{Error, Result, program::Programs};

/// Columns that the walk reads whatever the measures are.
pub(crate) const FIXED_COLUMNS: &[&str] = &[
    "org_id",
    "user_key",
    "client_type",
    "event_time",
    "event_id",
    "source",
    "event_type",
    "recorded_time",
    "log_partition",
    "log_offset",
    "product",
    "install_id",
    "sequence",
    "reports",
    "state",
    "tier",
    "overage_enabled",
    "overage_cap",
];

/// Stands in a key for what the event does not say.
pub(crate) const UNKNOWN: &str = "unknown";

/// The view of a text of up to 12 bytes, which holds it whole; `None` for longer ones.
pub(crate) fn inline_view(text: &str) -> Option<u128> {
    (text.len() <= 12).then(|| make_view(text.as_bytes(), 0, 0))
}

/// A column of numbers.
pub(crate) enum Number {
    Int(Int64Array),
    Decimal(Decimal128Array),
}

impl Number {
    /// The value, in units of its own scale; `None` where null.
    #[inline]
    pub(crate) fn get(&self, row: usize) -> Option<i128> {
        match self {
            Self::Int(values) => values.is_valid(row).then(|| i128::from(values.value(row))),
            Self::Decimal(values) => values.is_valid(row).then(|| values.value(row)),
        }
    }
}

/// A batch of `events`.
pub(crate) struct Columns {
    /// Number of the batch: equal views of one batch are equal texts.
    pub(crate) batch: u64,
    pub(crate) rows: usize,
    pub(crate) org: StringViewArray,
    pub(crate) user: StringViewArray,
    pub(crate) client_type: StringViewArray,
    pub(crate) event_time: ScalarBuffer<i64>,
    pub(crate) event_id: BinaryViewArray,
    pub(crate) source: StringViewArray,
    /// Index of each row's program.
    pub(crate) programs: Vec<u16>,
    pub(crate) recorded_time: ScalarBuffer<i64>,
    pub(crate) log_partition: ScalarBuffer<i32>,
    pub(crate) log_offset: ScalarBuffer<i64>,
    pub(crate) product: StringViewArray,
    pub(crate) install_id: StringViewArray,
    pub(crate) sequence: Int64Array,
    pub(crate) reports: StringViewArray,
    pub(crate) plan_state: StringViewArray,
    pub(crate) plan_tier: StringViewArray,
    pub(crate) overage_enabled: BooleanArray,
    pub(crate) overage_cap: Decimal128Array,
    /// Columns that steps read, in the order of [`Programs`].
    pub(crate) texts: Vec<StringViewArray>,
    pub(crate) numbers: Vec<Number>,
    pub(crate) flags: Vec<BooleanArray>,
}

impl Columns {
    /// Downcasts the columns that the walk reads, found by name. Text may come as `Utf8`, `Utf8View` or a dictionary.
    ///
    /// # Errors
    /// Where a column is missing, has another type, or is null where it must not be.
    pub(crate) fn new(ordinal: u64, batch: &RecordBatch, programs: &Programs) -> Result<Self> {
        let text = |name: &str| Ok(take(batch, name, &DataType::Utf8View)?.as_string_view().clone());
        let int = |name: &str| Ok(take(batch, name, &DataType::Int64)?.as_primitive::<Int64Type>().clone());
        let flag = |name: &str| Ok(take(batch, name, &DataType::Boolean)?.as_boolean().clone());
        let decimal =
            |name: &str| Ok(take(batch, name, &DataType::Decimal128(20, 6))?.as_primitive::<Decimal128Type>().clone());
        let time = |name: &str| times(batch, name);
        let key =
            |name: &str| Ok::<_, Error>(full(name, take(batch, name, &DataType::Utf8View)?)?.as_string_view().clone());
        let number = |name: &&str| match batch.schema_ref().field_with_name(name).map(|field| field.data_type()) {
            Ok(DataType::Decimal128(..)) => decimal(name).map(Number::Decimal),
            _ => int(name).map(Number::Int),
        };
        Ok(Self {
            batch: ordinal,
            rows: batch.num_rows(),
            org: key("org_id")?,
            user: key("user_key")?,
            client_type: key("client_type")?,
            event_time: time("event_time")?,
            event_id: full("event_id", take(batch, "event_id", &DataType::BinaryView)?)?.as_binary_view().clone(),
            source: key("source")?,
            programs: program_indices(&key("event_type")?, programs),
            recorded_time: time("recorded_time")?,
            log_partition: full("log_partition", take(batch, "log_partition", &DataType::Int32)?)?
                .as_primitive::<Int32Type>()
                .values()
                .clone(),
            log_offset: full("log_offset", take(batch, "log_offset", &DataType::Int64)?)?
                .as_primitive::<Int64Type>()
                .values()
                .clone(),
            product: text("product")?,
            install_id: text("install_id")?,
            sequence: int("sequence")?,
            reports: text("reports")?,
            plan_state: text("state")?,
            plan_tier: text("tier")?,
            overage_enabled: flag("overage_enabled")?,
            overage_cap: decimal("overage_cap")?,
            texts: programs.texts.iter().map(|name| text(name)).collect::<Result<_>>()?,
            numbers: programs.numbers.iter().map(number).collect::<Result<_>>()?,
            flags: programs.flags.iter().map(|name| flag(name)).collect::<Result<_>>()?,
        })
    }

    /// Both rows belong to the same (org_id, user_key, client_type).
    #[inline]
    pub(crate) fn same_run(&self, a: usize, b: usize) -> bool {
        same(&self.user, a, b) && same(&self.client_type, a, b) && same(&self.org, a, b)
    }
}

/// Index of the program of each row's event type. Types alternate from row to row, but there are few: a small cache from the view
/// to the program spares nearly all look-ups.
fn program_indices(types: &StringViewArray, programs: &Programs) -> Vec<u16> {
    let mut cache = [(0_u128, u16::MAX); 64];
    let index = |(row, view): (usize, &u128)| {
        let folded = (*view ^ (*view >> 64)) as u64;
        let slot = &mut cache[(folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize];
        if slot.0 != *view || slot.1 == u16::MAX {
            let found = programs.index(types.value(row));
            *slot = (*view, u16::try_from(found).expect("there are some hundred programs at most"));
        }
        slot.1
    };
    types.views().iter().enumerate().map(index).collect()
}

/// Equal texts of one column: in dictionary-encoded pages equal views tell it without a look at the bytes.
#[inline]
fn same(column: &StringViewArray, a: usize, b: usize) -> bool {
    column.views()[a] == column.views()[b] || column.value(a) == column.value(b)
}

/// A column in the type wanted.
///
/// # Errors
/// Where it is missing or cannot be cast.
pub(crate) fn take(batch: &RecordBatch, name: &str, wanted: &DataType) -> Result<ArrayRef> {
    let column =
        batch.column_by_name(name).ok_or_else(|| Error::Column { name: name.into(), detail: "is missing".into() })?;
    if column.data_type() == wanted {
        return Ok(ArrayRef::clone(column));
    }
    cast(column, wanted).map_err(|error| Error::Column { name: name.into(), detail: error.to_string() })
}

fn full(name: &str, column: ArrayRef) -> Result<ArrayRef> {
    match column.null_count() {
        0 => Ok(column),
        nulls => Err(Error::Column { name: name.into(), detail: format!("has {nulls} nulls, and must have none") }),
    }
}

/// A time column (µs).
///
/// # Errors
/// Where it is missing, no time, or has nulls.
pub(crate) fn times(batch: &RecordBatch, name: &str) -> Result<ScalarBuffer<i64>> {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let column = full(name, take(batch, name, &micros)?)?;
    Ok(column.as_primitive::<TimestampMicrosecondType>().values().clone())
}
