//! Where the next page begins: opaque to clients, made and checked here.
//!
//! A cursor is the base64url text of `tag ‖ JSON`. The JSON says which table version is read, the key of the last row handed out,
//! and a digest of the parameters; the tag is HMAC-SHA-256 over the organisation and the JSON. So it can neither be
//! altered nor used by another organisation, which would gain nothing anyway: the organisation comes from the credential, and the
//! fence from the organisation.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use schemas::OrgId;
use sha2::{Digest, Sha256};

use super::problem::Problem;

/// Format of the JSON; another one is refused, not guessed.
const FORMAT: u8 = 2;
/// Bytes of the tag that are kept (RFC 2104 §5 allows half).
const TAG_BYTES: usize = 16;
/// Longest cursor [characters]: a key of four texts within their limits is far below.
const MAX_CHARS: usize = 8 * 1024;

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cursor {
    v: u8,
    /// Table.
    #[serde(rename = "i")]
    pub(super) table_id: String,
    /// Version of the table.
    #[serde(rename = "t")]
    pub(super) version: i64,
    /// Key of the last row of the page before.
    #[serde(rename = "k")]
    pub(super) after: Vec<String>,
    /// Digest of the parameters.
    #[serde(rename = "p")]
    pub(super) parameters: String,
}

impl Cursor {
    pub(super) fn new(table_id: &str, version: i64, after: Vec<String>, parameters: &str) -> Self {
        Self { v: FORMAT, table_id: table_id.to_owned(), version, after, parameters: parameters.to_owned() }
    }

    /// The cursor as text, for `org`.
    pub(super) fn seal(&self, key: &[u8], org: &OrgId) -> String {
        let json = serde_json::to_vec(self).expect("texts and numbers have a JSON form");
        let mut sealed = tag(key, org, &json).to_vec();
        sealed.extend_from_slice(&json);
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// The cursor that [`Cursor::seal`] made with the same key for the same organisation.
    pub(super) fn open(text: &str, key: &[u8], org: &OrgId) -> Result<Self, Problem> {
        let refused = || {
            Problem::cursor(
                "This is no cursor of this service: it was cut off, altered, made for another credential, or made \
                 before the service restarted. Start again without `cursor`.",
            )
        };
        if text.len() > MAX_CHARS {
            return Err(refused());
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
        let (presented, json) = sealed.split_at_checked(TAG_BYTES).ok_or_else(refused)?;
        let expected = tag(key, org, json);
        // All bytes are looked at, whichever differ.
        let difference = presented.iter().zip(expected).fold(0, |found, (a, b)| found | (a ^ b));
        if difference != 0 {
            return Err(refused());
        }
        let cursor: Self = serde_json::from_slice(json).map_err(|_| refused())?;
        if cursor.v == FORMAT { Ok(cursor) } else { Err(refused()) }
    }
}

fn tag(key: &[u8], org: &OrgId, json: &[u8]) -> [u8; TAG_BYTES] {
    // An organisation's id holds no zero byte, so the two cannot run into each other.
    let full = hmac_sha256(key, &[b"daybook cursor\0", org.as_str().as_bytes(), b"\0", json]);
    full[..TAG_BYTES].try_into().expect("SHA-256 has 32 bytes")
}

/// HMAC-SHA-256 (RFC 2104) of the concatenated parts.
pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut inner = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36));
    for part in parts {
        inner.update(part);
    }
    Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c)).chain_update(inner.finalize()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(id: &str) -> OrgId {
        id.parse().expect("an id")
    }

    #[test]
    fn hmac_is_rfc_4231() {
        // Test cases 1, 2 and 6.
        let check = |key: &[u8], data: &[u8], expected: &str| {
            let (head, tail) = data.split_at(data.len() / 2);
            assert_eq!(hex::encode(hmac_sha256(key, &[head, tail])), expected);
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
    fn only_what_was_sealed_opens() {
        let key = [7; 32];
        let after = ["2026-01-02", "email:käse@example.org", "kiro", "ide"].map(str::to_owned);
        let cursor = Cursor::new("table", 12, after.into(), "digest");
        let text = cursor.seal(&key, &org("acme"));
        assert_eq!(Cursor::open(&text, &key, &org("acme")).expect("opens"), cursor);
        assert!(Cursor::open(&text, &key, &org("globex")).is_err());
        assert!(Cursor::open(&text, &[8; 32], &org("acme")).is_err());
        for at in 0..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).expect("ASCII");
            assert!(Cursor::open(&altered, &key, &org("acme")).is_err(), "altered at {at}");
            assert!(Cursor::open(&text[..at], &key, &org("acme")).is_err(), "cut at {at}");
        }
    }
}
