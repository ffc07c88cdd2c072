//! What events call a person, with history; and the tokens that end with the person.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemas::OrgId;
use serde_json::{Value, json};
use sqlx::{Row as _, Transaction};

use super::{Bind, Db, Resource, places, statement, texts};
use crate::{
    Directory, KeyId, parsed,
    scim::{document::is_primary, filter::fold, problem::Result},
};

/// The person's `user_key`s: the primary or only e-mail address, and the userName where it is one.
pub(super) fn user_keys(person: &Resource) -> BTreeSet<String> {
    let emails = person.body.get("emails").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let email = match emails {
        [only] => Some(only),
        several => several.iter().find(|email| is_primary(email)),
    };
    let email = email.and_then(|email| email.get("value")).and_then(Value::as_str);
    let found = email.into_iter().chain([person.name()]).filter(|text| is_address(text));
    found.map(|address| format!("email:{}", fold(address))).collect()
}

fn is_address(text: &str) -> bool {
    let parts = text.split_once('@');
    parts.is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty() && !domain.contains('@'))
        && !text.contains(char::is_whitespace)
}

/// Makes `keys` the person's from `now` on; whether that changes anything.
pub(super) async fn keep(
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    person: &str,
    keys: &BTreeSet<String>,
    now_us: i64,
) -> Result<bool> {
    let own = [Bind::Text(org.to_string()), Bind::Text(person.to_owned())];
    let select = "SELECT user_key FROM person_keys WHERE org_id = $1 AND person_id = $2 AND valid_to_us IS NULL";
    let rows = statement(select.to_owned(), own.clone()).fetch_all(&mut **transaction).await?;
    let have = rows.iter().map(|row| row.try_get::<String, _>("user_key")).collect::<Result<BTreeSet<_>, _>>()?;
    let gone: Vec<&String> = have.difference(keys).collect();
    if !gone.is_empty() {
        let update = format!(
            "UPDATE person_keys SET valid_to_us = $3 WHERE org_id = $1 AND person_id = $2 AND valid_to_us IS NULL AND user_key IN ({})",
            places(4, gone.len())
        );
        let values = own.clone().into_iter().chain([Bind::Number(now_us)]).chain(texts(gone.iter().copied()));
        statement(update, values).execute(&mut **transaction).await?;
    }
    let new = keys.difference(&have).cloned().collect();
    add(transaction, org, person, &new, now_us).await?;
    Ok(have != *keys)
}

/// Makes `keys`, which are not the person's, the person's from `now` on.
pub(super) async fn add(
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    person: &str,
    keys: &BTreeSet<String>,
    now_us: i64,
) -> Result<()> {
    for key in keys {
        // A key that went and came within a microsecond never went.
        let insert = "INSERT INTO person_keys (org_id, person_id, user_key, valid_from_us) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT (org_id, person_id, user_key, valid_from_us) DO UPDATE SET valid_to_us = NULL";
        let ids = [org.to_string(), person.to_owned(), key.clone()].map(Bind::Text);
        let values = ids.into_iter().chain([Bind::Number(now_us)]);
        statement(insert.to_owned(), values).execute(&mut **transaction).await?;
    }
    Ok(())
}

/// Revokes the tokens that were made for the person, by any `user_key` of now or before that is no other's now. Gives their ids, for
/// the cache to forget when the transaction has ended.
///
/// Tokens of the role `lead` name a team and no person: they stay.
pub(super) async fn revoke(
    directory: &Directory,
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    person: &str,
    now: Timestamp,
) -> Result<Vec<KeyId>> {
    let update = "UPDATE keys SET revoked_at_us = $3 WHERE org_id = $1 AND role = 'member' AND revoked_at_us IS NULL \
                  AND LOWER(subject) IN (SELECT user_key FROM person_keys AS own WHERE own.org_id = $1 AND own.person_id = $2 \
                      AND NOT EXISTS (SELECT 1 FROM person_keys AS other WHERE other.org_id = $1 AND other.user_key = own.user_key \
                          AND other.person_id <> $2 AND other.valid_to_us IS NULL)) \
                  RETURNING id";
    let values = [Bind::Text(org.to_string()), Bind::Text(person.to_owned()), Bind::Number(now.as_microsecond())];
    let rows = statement(update.to_owned(), values).fetch_all(&mut **transaction).await?;
    let revoked = rows.iter().map(|row| parsed(row, "id")).collect::<Result<Vec<KeyId>, _>>()?;
    for id in &revoked {
        directory.record(transaction, org, "key.revoked", id.as_str(), &json!({ "scim_user": person }), now).await?;
    }
    Ok(revoked)
}
