//! What a write does, within a transaction.
//!
//! Locks are taken in one order, so that no two writes wait for each other: the organisation's row of `scim_changes`, people, the
//! resource, memberships, and keys with the audit log last.

use std::{collections::BTreeSet, sync::Mutex};

use jiff::Timestamp;
use schemas::OrgId;
use serde_json::Value;
use sqlx::Transaction;
use uuid::{ContextV7, Uuid};

use super::{Bind, Db, Resource, keys, members, read, refused, statement, table};
use crate::{
    Directory, KeyId,
    scim::{
        document::Object,
        filter::fold,
        patch::{self, Members},
        problem::{Problem, Result},
        schema::Type,
    },
};

/// Times that a change is made anew because another process was faster. (Not on SQLite, whose lock keeps it out.)
const ATTEMPTS_MAX: usize = 32;

/// What is to be written.
#[derive(Clone, Debug)]
pub(in crate::scim) enum Write {
    Create {
        of: Type,
        body: Object,
        members: Vec<Members>,
    },
    Change {
        of: Type,
        id: String,
        change: Change,
        if_match: Option<String>,
    },
    /// A person's memberships and a group's end; their history stays.
    Delete {
        of: Type,
        id: String,
        if_match: Option<String>,
    },
}

/// How a resource is to change.
#[derive(Clone, Debug)]
pub(in crate::scim) enum Change {
    /// It is to be this.
    Whole { body: Object, members: Vec<Members> },
    /// The body of a PATCH.
    Patch(Value),
}

/// What was written.
#[derive(Debug)]
pub(in crate::scim) struct Written {
    /// As it was before, where it was deleted.
    pub(in crate::scim) resource: Resource,
    /// Tokens that ended, for the cache to forget.
    pub(super) revoked: Vec<KeyId>,
}

/// Writes.
///
/// # Errors
/// 404 where there is no such resource, 412 where it has another version than the client knows, `uniqueness` where another has its name, `invalidValue`
/// where a member is no user, and what [`patch::apply`] says. Then the transaction is to be undone.
pub(super) async fn apply(
    directory: &Directory,
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    write: Write,
    now: Timestamp,
) -> Result<Written> {
    match write {
        Write::Create { of, body, members } => create(directory, transaction, org, of, body, &members, now).await,
        Write::Change { of, id, change, if_match } => {
            for _ in 0..ATTEMPTS_MAX {
                let have = expected(transaction, org, of, &id, if_match.as_deref()).await?;
                if let Some(written) = changed(directory, transaction, org, have, &change, now).await? {
                    return Ok(written);
                }
            }
            Err(contended())
        }
        Write::Delete { of, id, if_match } => {
            for _ in 0..ATTEMPTS_MAX {
                let have = expected(transaction, org, of, &id, if_match.as_deref()).await?;
                if let Some(written) = delete(directory, transaction, org, have, now).await? {
                    return Ok(written);
                }
            }
            Err(contended())
        }
    }
}

fn contended() -> Problem {
    Problem::new(409, "Others change the same resource at the same time. Try again.")
}

/// The resource, if it has a version that the client knows.
async fn expected(
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    of: Type,
    id: &str,
    if_match: Option<&str>,
) -> Result<Resource> {
    let have = read(&mut **transaction, org, of, id).await?.ok_or_else(|| Problem::missing(of.name(), id))?;
    match if_match {
        Some(known) if !have.is_of(known) => Err(Problem::version()),
        _ => Ok(have),
    }
}

async fn create(
    directory: &Directory,
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    of: Type,
    body: Object,
    changes: &[Members],
    now: Timestamp,
) -> Result<Written> {
    let now_us = now.as_microsecond();
    let made = Resource { of, id: id(now), version: 1, created_us: now_us, modified_us: now_us, body, length: 0 };
    let insert = match of {
        Type::User => {
            "INSERT INTO people (org_id, id, name_folded, external_id, display_folded, document, version, modified_at_us, \
             created_at_us, active) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
        }
        Type::Group => {
            "INSERT INTO scim_groups (org_id, id, name_folded, external_id, display, document, version, modified_at_us, created_at_us) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        }
    };
    let mut change = keys::Change::default();
    if of == Type::User {
        change = keys::planned(transaction, org, &made.id, &BTreeSet::new(), &keys::user_keys(&made)).await?;
        if change.concerns_teams(true) {
            count(transaction, org).await?;
        }
    } else {
        let insert = "INSERT INTO scim_changes (org_id, changes) VALUES ($1, 0) ON CONFLICT (org_id) DO NOTHING";
        statement(insert.to_owned(), [Bind::Text(org.to_string())]).execute(&mut **transaction).await?;
        count(transaction, org).await?;
        members::lock(transaction, org, changes).await?;
    }
    let query = columns(insert.to_owned(), org, &made).bind(now_us);
    let query = if of == Type::User { query.bind(made.active().map(i64::from)) } else { query };
    query.execute(&mut **transaction).await.map_err(|error| refused(error, of, made.name()))?;
    let mut revoked = Vec::new();
    if of == Type::User {
        keys::keep(transaction, org, &made.id, &change, now_us).await?;
        let ended = made.active() == Some(false);
        revoked = keys::revoke(directory, transaction, org, &made.id, (change, ended), now).await?;
    } else {
        members::change(transaction, org, &made.id, changes, now_us).await?;
    }
    Ok(Written { resource: made, revoked })
}

/// A resource changed; `None` where another process was faster. A change that changes nothing makes no new version (RFC 7644 §3.5.2).
async fn changed(
    directory: &Directory,
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    mut have: Resource,
    change: &Change,
    now: Timestamp,
) -> Result<Option<Written>> {
    let (of, now_us) = (have.of, now.as_microsecond());
    let before = have.clone();
    let patched;
    let changes = match change {
        Change::Whole { body, members } => {
            have.body.clone_from(body);
            members
        }
        Change::Patch(body) => {
            patched = patch::apply(of, &mut have.body, body)?;
            &patched
        }
    };
    if have.body == before.body && members::same(transaction, org, &have.id, changes).await? {
        return Ok(Some(Written { resource: have, revoked: Vec::new() }));
    }
    let mut keys_change = keys::Change::default();
    if of == Type::User {
        let (before, after) = (keys::user_keys(&before), keys::user_keys(&have));
        keys_change = keys::planned(transaction, org, &have.id, &before, &after).await?;
    }
    // Of a group the name may be another, too.
    if of == Type::Group || keys_change.concerns_teams(false) {
        count(transaction, org).await?;
    }
    members::lock(transaction, org, changes).await?;
    let version = have.version;
    have.version += 1;
    have.modified_us = now_us;
    let update = format!(
        "UPDATE {} SET name_folded = $3, external_id = $4, {} = $5, document = $6, version = $7, modified_at_us = $8{} \
         WHERE org_id = $1 AND id = $2 AND version = $9{}",
        table(of),
        if of == Type::User { "display_folded" } else { "display" },
        if of == Type::User { ", active = $10" } else { "" },
        super::live(of),
    );
    let query = columns(update, org, &have).bind(version);
    let query = if of == Type::User { query.bind(have.active().map(i64::from)) } else { query };
    let done = query.execute(&mut **transaction).await.map_err(|error| refused(error, of, have.name()))?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    let mut revoked = Vec::new();
    if of == Type::User {
        keys::keep(transaction, org, &have.id, &keys_change, now_us).await?;
        let ended = have.active() == Some(false);
        revoked = keys::revoke(directory, transaction, org, &have.id, (keys_change, ended), now).await?;
    } else {
        members::change(transaction, org, &have.id, changes, now_us).await?;
    }
    Ok(Some(Written { resource: have, revoked }))
}

/// A resource deleted; `None` where another process was faster.
async fn delete(
    directory: &Directory,
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    have: Resource,
    now: Timestamp,
) -> Result<Option<Written>> {
    count(transaction, org).await?;
    let (of, id, now_us) = (have.of, have.id.as_str(), now.as_microsecond());
    let own = [Bind::Text(org.to_string()), Bind::Text(id.to_owned())];
    let version = Bind::Number(have.version);
    let timed = own.clone().into_iter().chain([Bind::Number(now_us)]);
    let delete = match of {
        Type::User => {
            let delete = "DELETE FROM people WHERE org_id = $1 AND id = $2 AND version = $3";
            statement(delete.to_owned(), own.clone().into_iter().chain([version]))
        }
        Type::Group => {
            // What it said is gone; that there was such a team, and who was in it, past days need.
            let update = "UPDATE scim_groups SET deleted_at_us = $3, document = '{}', external_id = NULL \
                          WHERE org_id = $1 AND id = $2 AND deleted_at_us IS NULL AND version = $4";
            statement(update.to_owned(), timed.clone().chain([version]))
        }
    };
    if delete.execute(&mut **transaction).await?.rows_affected() == 0 {
        return Ok(None);
    }
    if of == Type::User {
        let groups = "UPDATE scim_groups SET version = version + 1, modified_at_us = $3 WHERE org_id = $1 AND id IN \
                      (SELECT group_id FROM memberships WHERE org_id = $1 AND person_id = $2 AND valid_to_us IS NULL)";
        statement(groups.to_owned(), timed.clone()).execute(&mut **transaction).await?;
        let update =
            "UPDATE person_keys SET valid_to_us = $3 WHERE org_id = $1 AND person_id = $2 AND valid_to_us IS NULL";
        statement(update.to_owned(), timed.clone()).execute(&mut **transaction).await?;
    }
    let column = if of == Type::User { "person_id" } else { "group_id" };
    let update =
        format!("UPDATE memberships SET valid_to_us = $3 WHERE org_id = $1 AND {column} = $2 AND valid_to_us IS NULL");
    statement(update, timed).execute(&mut **transaction).await?;
    // Again: the organisation's first group may have come meanwhile.
    count(transaction, org).await?;
    let mut revoked = Vec::new();
    if of == Type::User {
        revoked = keys::revoke(directory, transaction, org, id, (keys::Change::default(), true), now).await?;
    }
    Ok(Some(Written { resource: have, revoked }))
}

/// Says that teams in tables may be others. Of an organisation without groups nothing is said.
async fn count(transaction: &mut Transaction<'_, Db>, org: &OrgId) -> Result<()> {
    let update = "UPDATE scim_changes SET changes = changes + 1 WHERE org_id = $1";
    statement(update.to_owned(), [Bind::Text(org.to_string())]).execute(&mut **transaction).await?;
    Ok(())
}

type Statement = sqlx::query::Query<'static, Db, <Db as sqlx::Database>::Arguments>;

/// `$1` to `$8`: organisation, id, name, external id, displayName (a person's in lower case), document, version, time.
fn columns(text: String, org: &OrgId, written: &Resource) -> Statement {
    let display = written.text("displayName");
    let display = if written.of == Type::User { display.map(fold) } else { display.map(str::to_owned) };
    let document = serde_json::to_string(&written.body).expect("an object is JSON");
    sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(org.to_string())
        .bind(written.id.clone())
        .bind(fold(written.name()))
        .bind(written.text("externalId").map(str::to_owned))
        .bind(display)
        .bind(document)
        .bind(written.version)
        .bind(written.modified_us)
}

/// What was made last by this process, so that ids made within a millisecond are in order, too.
static MADE: Mutex<ContextV7> = Mutex::new(ContextV7::new());

/// UUIDv7: in the order in which resources were made, which is the order of lists.
fn id(now: Timestamp) -> String {
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let nanoseconds = u32::try_from(now.subsec_nanosecond()).unwrap_or_default();
    Uuid::new_v7(uuid::Timestamp::from_unix(&MADE, seconds, nanoseconds)).to_string()
}
