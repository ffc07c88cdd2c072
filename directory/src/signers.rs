//! Keys with the scope `produce`, as those need them who check signatures.

use jiff::Timestamp;
use schemas::OrgId;
use sqlx::{Row as _, any::AnyRow};

use crate::{Directory, Error, KeyId, MacKey, Result, parsed, time};

/// Keys in one statement.
const KEYS_AT_ONCE: usize = 500;

/// A key that signs records. Of what is here nothing ever changes, but that `revoked_at` is set once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The key.
    pub id: KeyId,
    /// Whose records it signs.
    pub org: OrgId,
    /// What it signs with.
    pub mac_key: MacKey,
    /// `None` = valid.
    pub revoked_at: Option<Timestamp>,
}

impl Directory {
    /// Those of `ids` that are keys with the scope `produce`, revoked ones too, in no particular order. Asks the database,
    /// never a cache: what was committed before the call is seen.
    ///
    /// # Errors
    /// Where the database cannot be read: that says nothing about any key.
    pub async fn signers(&self, ids: &[KeyId]) -> Result<Vec<Signer>> {
        let mut signers = Vec::new();
        for ids in ids.chunks(KEYS_AT_ONCE) {
            let places: Vec<String> = (1..=ids.len()).map(|at| format!("${at}")).collect();
            let select = format!(
                "SELECT id, org_id, mac_key, revoked_at_us FROM keys WHERE scope = 'produce' AND id IN ({})",
                places.join(", ")
            );
            // Nothing of it but `$1`, `$2` … is made here.
            let mut query = sqlx::query(sqlx::AssertSqlSafe(select));
            for id in ids {
                query = query.bind(id.as_str());
            }
            let rows = query.fetch_all(&self.pool).await.map_err(Error::Database)?;
            for row in &rows {
                signers.push(signer(row)?);
            }
        }
        Ok(signers)
    }
}

fn signer(row: &AnyRow) -> Result<Signer> {
    let text: String = row.try_get("mac_key").map_err(Error::Database)?;
    let mut mac_key = [0; 32];
    hex::decode_to_slice(&text, &mut mac_key)
        .map_err(|_| Error::Corrupt { column: "mac_key", value: "…".to_owned() })?;
    Ok(Signer {
        id: parsed(row, "id")?,
        org: parsed(row, "org_id")?,
        mac_key: MacKey::new(mac_key),
        revoked_at: time(row, "revoked_at_us")?,
    })
}
