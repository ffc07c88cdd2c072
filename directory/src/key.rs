//! Keys: `dbk_<key id>_<secret>`.
//!
//! | part | |
//! |---|---|
//! | `dbk_` | lets scanners of source code and logs find leaked keys |
//! | key id | 16 hexadecimal digits, public: look-ups and logs name it |
//! | secret | 32 random bytes, base64url without padding: 43 characters |

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{CryptoRng, Rng};
use sha2::{Digest as _, Sha256};

use crate::mac::MacKey;

const PREFIX: &str = "dbk_";
const ID_CHARS: usize = 16;
const SECRET_BYTES: usize = 32;
/// 32 bytes in base64 without padding.
const SECRET_CHARS: usize = 43;

/// The public part of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

/// A text that is no key id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key id is 16 digits of 0-9 and a-f: the part of the key between `dbk_` and the next `_`")]
pub struct InvalidKeyId;

impl KeyId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let valid = text.len() == ID_CHARS && text.bytes().all(digit);
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidKeyId) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key permits. A key has exactly one scope, so that one left on a developer's machine cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Send events.
    Ingest,
    /// Ask questions.
    Read,
    /// Sign records that are written to the log directly. Not accepted over HTTP.
    Produce,
    /// Push people and groups.
    Scim,
}

impl Scope {
    /// The scope's stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Produce => "produce",
            Self::Scim => "scim",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ingest" => Ok(Self::Ingest),
            "read" => Ok(Self::Read),
            "produce" => Ok(Self::Produce),
            "scim" => Ok(Self::Scim),
            _ => Err(()),
        }
    }
}

/// A whole key, as its owner presents it. `Debug` does not print it, and there is no `Display`.
pub struct Secret(String);

impl Secret {
    /// The key in clear: to be shown once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What records are signed with by whoever has this key.
    #[must_use]
    pub fn mac_key(&self) -> MacKey {
        MacKey::derive(self.secret_part().as_bytes())
    }

    pub(crate) fn secret_part(&self) -> &str {
        &self.0[PREFIX.len() + ID_CHARS + 1..]
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A new key.
pub(crate) fn generate(rng: &mut (impl Rng + CryptoRng)) -> (KeyId, Secret) {
    let id = format!("{:016x}", rng.random::<u64>());
    let secret = URL_SAFE_NO_PAD.encode(rng.random::<[u8; SECRET_BYTES]>());
    (KeyId(id.clone()), Secret(format!("{PREFIX}{id}_{secret}")))
}

/// Key id and secret part of what has the form of a key.
pub(crate) fn split(presented: &str) -> Option<(KeyId, &str)> {
    let (id, secret) = presented.strip_prefix(PREFIX)?.split_once('_')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (secret.len() == SECRET_CHARS && secret.bytes().all(plain)).then_some(())?;
    Some((id.parse().ok()?, secret))
}

pub(crate) fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Equality in a time that does not depend on where the first difference is. (What is compared are hashes, whose
/// timing would tell little; this costs nothing.)
pub(crate) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}
