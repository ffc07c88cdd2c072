//! What a table was computed by, as its transactions say.

use xxhash_rust::xxh3::xxh3_64;

/// Holds the digest of the definition that a table was computed with.
pub(crate) const DEFINITION_APP_ID: &str = "daybook/definition";

/// Changes, to all practical certainty, with any change of the text; never 0, which stands for none.
pub(crate) fn digest(text: &str) -> i64 {
    (xxh3_64(text.as_bytes()) >> 1).max(1).cast_signed()
}
