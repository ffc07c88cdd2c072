//! Signatures of log records, for logs that others than collectors write to. `docs/producers.md` says the same to them.
//!
//! A record is signed by a key with the scope `produce` (its id stands in `daybook-key`), or by a collector with the secret that
//! collectors and workers share (`collector` stands there). The signature is HMAC-SHA-256, in hexadecimal digits, over:
//!
//! | field | |
//! |---|---|
//! | organisation | header `daybook-org` |
//! | recorded time | header `daybook-recorded-time`; collectors only |
//! | vantage | header `daybook-vantage` |
//! | key | of the record |
//! | value | of the record |
//!
//! Each field is its length in bytes as a 64-bit number, big endian, then its bytes. One that is absent is the length
//! 2^64 − 1 and nothing more, so that no two records give the same bytes.

use std::fmt;

use bytes::Bytes;
use directory::MacKey;
use schemas::OrgId;
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    headers,
    log::{Append, Headers, Record},
};

/// What stands for the key id in records that a collector has signed. No key can have this id.
pub const COLLECTOR: &str = "collector";
/// Shortest secret for signing (bytes).
const SECRET_BYTES_MIN: usize = 32;

/// Whether records must be signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signatures {
    /// They need not: whoever may write to the log is believed. So only collectors may.
    #[default]
    Off,
    /// One that is not, or wrongly, is a dead letter.
    Required,
}

/// A secret. Neither `Debug` nor serialisation shows it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SigningKey(String);

impl SigningKey {
    /// What records are signed with.
    #[must_use]
    pub fn mac_key(&self) -> MacKey {
        MacKey::derive(self.0.as_bytes())
    }
}

impl From<&str> for SigningKey {
    fn from(secret: &str) -> Self {
        Self(secret.to_owned())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl Serialize for SigningKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(hidden)")
    }
}

/// Who may write to the log besides collectors, and how they are known. By default nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Every record of the log is this organisation's, whatever it says of itself.
    pub organisation: Option<OrgId>,
    /// Whether records must be signed.
    pub signatures: Signatures,
    /// What collectors sign with, and workers check; the same for all of them. Collectors that have it sign, required or not.
    pub signing_key: Option<SigningKey>,
}

impl Settings {
    /// Every fault: setting and problem.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, &'static str)> {
        let mut faults = Vec::new();
        if self.signing_key.as_ref().is_some_and(|key| key.0.len() < SECRET_BYTES_MIN) {
            faults.push(("signing-key", "takes at least 32 bytes"));
        }
        if self.signatures == Signatures::Required {
            if self.signing_key.is_none() {
                faults.push(("signatures", "needs a signing-key: what collectors append is signed too"));
            }
            if self.organisation.is_some() {
                faults.push((
                    "organisation",
                    "and signatures exclude each other: all records are one organisation's, or each is signed",
                ));
            }
        }
        faults
    }

    /// What a collector signs with.
    pub(crate) fn collector_key(&self) -> Option<MacKey> {
        self.signing_key.as_ref().map(SigningKey::mac_key)
    }
}

/// A value of a header, if it stands there once or more; the first.
fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_ref())
}

/// The fields of a record that are signed.
struct Fields<'a>([Option<&'a [u8]>; 5]);

impl<'a> Fields<'a> {
    fn new(headers: &'a Headers, key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Self {
        let [org, recorded, vantage] =
            [headers::ORG, headers::RECORDED_TIME, headers::VANTAGE].map(|name| header(headers, name));
        Self([org, recorded, vantage, key, value])
    }

    /// Hands the parts of the signed bytes to `act`.
    fn parts<T>(&self, act: impl FnOnce(&[&[u8]]) -> T) -> T {
        let lengths = self.0.map(|field| field.map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
        let mut parts: [&[u8]; 10] = [&[]; 10];
        for (at, (length, field)) in lengths.iter().zip(self.0).enumerate() {
            parts[2 * at] = length;
            parts[2 * at + 1] = field.unwrap_or_default();
        }
        act(&parts)
    }
}

/// Signs a record as `key_id`: a key with the scope `produce`, or [`COLLECTOR`]. An older signature goes.
pub fn sign(record: &mut Append, key_id: &str, key: &MacKey) {
    record.headers.retain(|(name, _)| name != headers::KEY && name != headers::SIGNATURE);
    let fields = Fields::new(&record.headers, Some(&record.key), Some(&record.value));
    let signature = hex::encode(fields.parts(|parts| key.mac(parts)));
    record.headers.push((headers::KEY.into(), Bytes::copy_from_slice(key_id.as_bytes())));
    record.headers.push((headers::SIGNATURE.into(), Bytes::from(signature)));
}

/// Whether the record carries the signature of `key`; `None` where it carries nothing that could be one.
pub(crate) fn is_signed(record: &Record, key: &MacKey) -> Option<bool> {
    let mut presented = [0; 32];
    hex::decode_to_slice(header(&record.headers, headers::SIGNATURE)?, &mut presented).ok()?;
    let fields = Fields::new(&record.headers, record.key.as_deref(), record.value.as_deref());
    Some(fields.parts(|parts| key.verifies(parts, &presented)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of docs/producers.md.
    #[test]
    fn the_documented_example_holds() {
        let text = include_str!("../../docs/producers.md");
        let mut record = Append {
            key: Bytes::from_static(b"acme/email:ada@example.com"),
            value: Bytes::from_static(br#"{"specversion":"1.0","id":"1"}"#),
            headers: vec![(headers::ORG.into(), Bytes::from_static(b"acme"))],
        };
        let secret = b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        sign(&mut record, "0123456789abcdef", &MacKey::derive(secret));
        let fields = Fields::new(&record.headers, Some(&record.key), Some(&record.value));
        let bytes = hex::encode(fields.parts(|parts| parts.concat()));
        let documented: String = text.split_whitespace().collect();
        assert!(documented.contains(&bytes), "the signed bytes: {bytes}");
        let signature = header(&record.headers, headers::SIGNATURE).expect("signed");
        let signature = std::str::from_utf8(signature).expect("digits");
        assert!(documented.contains(signature), "the signature: {signature}");
        assert!(documented.contains(std::str::from_utf8(secret).expect("text")));
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings =
            Settings { signing_key: Some("s3cret-s3cret-s3cret-s3cret-s3cret".into()), ..Settings::default() };
        assert!(!format!("{settings:?}").contains("s3cret"));
        assert!(!serde_json::to_string(&settings).expect("it has a JSON form").contains("s3cret"));
        assert!(settings.faults().is_empty());
        let short = Settings { signing_key: Some("short".into()), ..Settings::default() };
        assert_eq!(short.faults()[0].0, "signing-key");
        let required = Settings {
            signatures: Signatures::Required,
            organisation: Some("acme".parse().expect("an id")),
            signing_key: None,
        };
        assert_eq!(required.faults().iter().map(|fault| fault.0).collect::<Vec<_>>(), ["signatures", "organisation"]);
    }

    fn part() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..3))
    }

    proptest! {
        /// Two records that differ in any field are signed differently, however their bytes are shared out.
        #[test]
        fn no_two_records_give_the_same_bytes(
            one in [part(), part(), part(), part(), part()],
            changes in prop::collection::vec((0..5_usize, part()), 1..3),
        ) {
            let bytes = |fields: &[Option<Vec<u8>>; 5]| {
                let fields = [0, 1, 2, 3, 4].map(|at| fields[at].as_deref());
                Fields(fields).parts(|parts| parts.concat())
            };
            let mut two = one.clone();
            for (at, part) in changes {
                two[at] = part;
            }
            prop_assert_eq!(one == two, bytes(&one) == bytes(&two));
        }
    }
}
