//! What events call a person, with history; and the tokens that end with the person.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemas::OrgId;
use serde_json::{Value, json};
use sqlx::{Row as _, Transaction};

use super::{Bind, Db, Resource, places, statement, texts};
use crate::{
    Directory, KeyId, parsed,
    scim::{
        document::is_primary,
        filter::fold,
        problem::{Problem, Result},
    },
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

/// How a person's `user_key`s are to change.
#[derive(Debug, Default)]
pub(super) struct Change {
    gone: BTreeSet<String>,
    new: BTreeSet<String>,
    /// Of the new ones those that another person has or had.
    taken: BTreeSet<String>,
}

impl Change {
    /// Whether memberships in tables may be others by it: a new person alone is in no group.
    pub(super) fn concerns_teams(&self, created: bool) -> bool {
        let other = !self.gone.is_empty() || !self.new.is_empty();
        !self.taken.is_empty() || (other && !created)
    }
}

/// What makes `after` the person's `user_key`s. `before` is what the document said until now: what it goes on saying takes nothing from
/// anybody who was given it meanwhile.
pub(super) async fn planned(
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    person: &str,
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
) -> Result<Change> {
    let own = [Bind::Text(org.to_string()), Bind::Text(person.to_owned())];
    let select = "SELECT user_key FROM person_keys WHERE org_id = $1 AND person_id = $2 AND valid_to_us IS NULL";
    // Whose document said nothing has none.
    let rows = match before.is_empty() {
        true => Vec::new(),
        false => statement(select.to_owned(), own.clone()).fetch_all(&mut **transaction).await?,
    };
    let have = rows.iter().map(|row| row.try_get("user_key")).collect::<Result<BTreeSet<String>, _>>()?;
    let mut change = Change { gone: &have - after, new: after - &have, taken: BTreeSet::new() };
    if change.new.is_empty() {
        return Ok(change);
    }
    let select = format!(
        "SELECT user_key, valid_to_us FROM person_keys WHERE org_id = $1 AND person_id <> $2 AND user_key IN ({})",
        places(3, change.new.len())
    );
    let rows = statement(select, own.into_iter().chain(texts(&change.new))).fetch_all(&mut **transaction).await?;
    for row in &rows {
        let key: String = row.try_get("user_key")?;
        if row.try_get::<Option<i64>, _>("valid_to_us")?.is_none() && before.contains(&key) {
            change.new.remove(&key);
        }
        change.taken.insert(key);
    }
    change.taken.retain(|key| change.new.contains(key));
    Ok(change)
}

/// Makes the change, from `now` on. A `user_key` is one person's: whoever had it has it no longer.
pub(super) async fn keep(
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    person: &str,
    change: &Change,
    now_us: i64,
) -> Result<()> {
    let own = [Bind::Text(org.to_string()), Bind::Text(person.to_owned()), Bind::Number(now_us)];
    for (whose, keys) in [("=", &change.gone), ("<>", &change.taken)] {
        if !keys.is_empty() {
            let update = format!(
                "UPDATE person_keys SET valid_to_us = $3 WHERE org_id = $1 AND person_id {whose} $2 AND valid_to_us IS NULL \
                 AND user_key IN ({})",
                places(4, keys.len())
            );
            statement(update, own.iter().cloned().chain(texts(keys))).execute(&mut **transaction).await?;
        }
    }
    for key in &change.new {
        // A key that went and came within a microsecond never went.
        let insert = "INSERT INTO person_keys (org_id, person_id, valid_from_us, user_key) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT (org_id, person_id, user_key, valid_from_us) DO UPDATE SET valid_to_us = NULL";
        let values = own.iter().cloned().chain([Bind::Text(key.clone())]);
        let done = statement(insert.to_owned(), values).execute(&mut **transaction).await;
        done.map_err(|error| match error.as_database_error() {
            // Another process gave it to somebody meanwhile: the next attempt takes it from there.
            Some(told) if told.is_unique_violation() => Problem { again: true, ..Problem::unknown() },
            _ => error.into(),
        })?;
    }
    Ok(())
}

/// Revokes tokens that were made for somebody: for the person who had a `user_key` that is another's from now on; and where the person
/// `ended`, by any `user_key` of now or before that is no other active person's now. Gives their ids, for the cache to forget when the
/// transaction has ended.
///
/// Tokens of the role `lead` name a team and no person: they stay.
pub(super) async fn revoke(
    directory: &Directory,
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    person: &str,
    (change, ended): (Change, bool),
    now: Timestamp,
) -> Result<Vec<KeyId>> {
    let org_id = Bind::Text(org.to_string());
    let mut subjects = change.taken;
    if ended {
        let select = "SELECT user_key FROM person_keys AS own WHERE own.org_id = $1 AND own.person_id = $2 \
                      AND NOT EXISTS (SELECT 1 FROM person_keys AS other \
                          JOIN people ON people.org_id = other.org_id AND people.id = other.person_id \
                          WHERE other.org_id = $1 AND other.user_key = own.user_key AND other.person_id <> $2 \
                          AND other.valid_to_us IS NULL AND (people.active IS NULL OR people.active = 1))";
        let values = [org_id.clone(), Bind::Text(person.to_owned())];
        for row in &statement(select.to_owned(), values).fetch_all(&mut **transaction).await? {
            subjects.insert(row.try_get("user_key")?);
        }
    }
    if subjects.is_empty() {
        return Ok(Vec::new());
    }
    // Compared here: databases differ in what lower case is.
    let select = "SELECT id, subject FROM keys WHERE org_id = $1 AND role = 'member' AND revoked_at_us IS NULL \
                  AND subject IS NOT NULL ORDER BY id";
    let rows = statement(select.to_owned(), [org_id.clone()]).fetch_all(&mut **transaction).await?;
    let mut revoked = Vec::new();
    for row in &rows {
        if !subjects.contains(&fold(&row.try_get::<String, _>("subject")?)) {
            continue;
        }
        let id: KeyId = parsed(row, "id")?;
        let update = "UPDATE keys SET revoked_at_us = $3 WHERE org_id = $1 AND id = $2 AND revoked_at_us IS NULL";
        let values = [org_id.clone(), Bind::Text(id.to_string()), Bind::Number(now.as_microsecond())];
        if statement(update.to_owned(), values).execute(&mut **transaction).await?.rows_affected() > 0 {
            revoked.push(id);
        }
    }
    for id in &revoked {
        directory.record(transaction, org, "key.revoked", id.as_str(), &json!({ "scim_user": person }), now).await?;
    }
    Ok(revoked)
}
