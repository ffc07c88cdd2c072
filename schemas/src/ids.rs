//! Identifiers that travel through every room.

use std::{fmt, str::FromStr};

/// An organisation's id: 1 to 64 characters of `[a-z0-9._-]`, starting with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrgId(String);

/// A text that is no organisation id.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no organisation id: it takes 1 to 64 characters of a-z, 0-9, `.`, `_`, `-`, the first a letter or digit"
)]
pub struct InvalidOrgId(String);

impl OrgId {
    /// Whether `text` is an organisation id.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
            && plain(text.as_bytes()[0])
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OrgId {
    type Err = InvalidOrgId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if Self::is_valid(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidOrgId(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for OrgId {
    type Error = InvalidOrgId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OrgId> for String {
    fn from(id: OrgId) -> Self {
        id.0
    }
}

impl fmt::Display for OrgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
