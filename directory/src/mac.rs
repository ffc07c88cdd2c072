//! Keys that sign records: HMAC-SHA-256 (RFC 2104).
//!
//! A key that signs is derived from a secret, and not the secret itself: the database must hold it to check signatures, and
//! whoever reads it there can sign, but neither learns the secret nor can present it anywhere else.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Keeps this use of a secret apart from every other.
const LABEL: &[u8] = b"daybook record signature v1";
const BLOCK_BYTES: usize = 64;

/// A key that signs. `Debug` does not print it.
#[derive(Clone)]
pub struct MacKey {
    bytes: [u8; 32],
    /// SHA-256 that has read the padded key: saves a third of the work for short messages.
    inner: Sha256,
    outer: Sha256,
}

impl MacKey {
    /// The key that belongs to `secret`.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        Self::new(keyed(secret).mac(&[LABEL]))
    }

    pub(crate) fn new(bytes: [u8; 32]) -> Self {
        let Keyed { inner, outer } = keyed(&bytes);
        Self { bytes, inner, outer }
    }

    /// As the directory keeps it.
    pub(crate) fn to_hex(&self) -> String {
        hex::encode(self.bytes)
    }

    /// HMAC-SHA-256 of the parts, one after the other.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        Keyed { inner: self.inner.clone(), outer: self.outer.clone() }.mac(parts)
    }

    /// Whether `presented` is what [`MacKey::mac`] makes of the parts. Its time does not tell how much of it is right.
    #[must_use]
    pub fn verifies(&self, parts: &[&[u8]], presented: &[u8; 32]) -> bool {
        crate::key::same(&self.mac(parts), presented)
    }
}

impl PartialEq for MacKey {
    fn eq(&self, other: &Self) -> bool {
        crate::key::same(&self.bytes, &other.bytes)
    }
}

impl Eq for MacKey {}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(…)")
    }
}

struct Keyed {
    inner: Sha256,
    outer: Sha256,
}

fn keyed(key: &[u8]) -> Keyed {
    let mut block = [0; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    Keyed {
        inner: Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36)),
        outer: Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c)),
    }
}

impl Keyed {
    fn mac(mut self, parts: &[&[u8]]) -> [u8; 32] {
        for part in parts {
            self.inner.update(part);
        }
        self.outer.chain_update(self.inner.finalize()).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_rfc_4231() {
        // Test cases 1, 2 and 6: a short key, a shorter one, one longer than a block.
        let check = |key: &[u8], data: &[u8], expected: &str| {
            let (start, end) = data.split_at(data.len() / 3);
            assert_eq!(hex::encode(keyed(key).mac(&[start, end])), expected);
        };
        check(&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        check(
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }

    #[test]
    fn a_derived_key_signs_and_is_not_printed() {
        let key = MacKey::derive(b"secret");
        let mut mac = key.mac(&[b"a", b"bc"]);
        assert!(key.verifies(&[b"abc"], &mac) && !key.verifies(&[b"xyz"], &mac));
        assert!(!MacKey::derive(b"secreT").verifies(&[b"abc"], &mac));
        mac[31] ^= 1;
        assert!(!key.verifies(&[b"abc"], &mac));
        assert_eq!(format!("{key:?}"), "MacKey(…)");
        assert_ne!(key.mac(&[LABEL]), keyed(b"secret").mac(&[LABEL]), "the secret itself signs nothing");
    }
}
