//! Where things lie within a table's folder, and how the log spells it.
//!
//! ```text
//! <lake>/<table>/_delta_log/00000000000000000007.json                  log entry of version 7
//! <lake>/<table>/_delta_log/00000000000000000007.checkpoint.parquet    log checkpoint
//! <lake>/<table>/<partition column>=2026-03-04/part-<uuid>.zstd.parquet
//! ```

use jiff::civil::Date;
use object_store::path::Path;
use uuid::Uuid;

/// Folder of the log within a table's.
const LOG: &str = "_delta_log";

pub(crate) fn log_folder(table: &Path) -> Path {
    table.clone().join(LOG)
}

pub(crate) fn entry(table: &Path, version: i64) -> Path {
    log_folder(table).join(format!("{version:020}.json"))
}

pub(crate) fn checkpoint(table: &Path, version: i64) -> Path {
    log_folder(table).join(format!("{version:020}.checkpoint.parquet"))
}

pub(crate) fn last_checkpoint(table: &Path) -> Path {
    log_folder(table).join("_last_checkpoint")
}

/// Version of a checkpoint in one file; `None` for any other object of the log.
pub(crate) fn checkpoint_version(path: &Path) -> Option<i64> {
    path.filename()?.strip_suffix(".checkpoint.parquet").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// True for the name of a log entry.
pub(crate) fn is_entry(name: &str) -> bool {
    name.strip_suffix(".json")
        .is_some_and(|digits| digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Path of a new data file, below the table's folder.
pub(crate) fn data_file(partition: Option<(&str, Date)>, id: Uuid) -> String {
    let name = format!("part-{id}.zstd.parquet");
    match partition {
        Some((column, day)) => format!("{column}={day}/{name}"),
        None => name,
    }
}

/// Where a file of the table lies in the store.
pub(crate) fn location(table: &Path, path: &str) -> Path {
    path.split('/').fold(table.clone(), |folder, part| folder.join(part))
}

/// `path` as log entries spell it: a URI's relative path (Delta protocol, "Add File"; RFC 3986 §2.1).
pub(crate) fn percent_encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/=!$&'()*+,;@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The inverse of [`percent_encode`]. A `%` that no hexadecimal number follows stands for itself.
pub(crate) fn percent_decode(encoded: &str) -> String {
    let hex = |digit: u8| char::from(digit).to_digit(16);
    let bytes = encoded.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1).zip(bytes.get(at + 2)).and_then(|(high, low)| hex(*high).zip(hex(*low)));
        match (bytes[at], pair) {
            (b'%', Some((high, low))) => {
                decoded.push(u8::try_from(high << 4 | low).expect("two hexadecimal digits make a byte"));
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
