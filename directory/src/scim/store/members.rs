//! Who is in a group, with history.

use std::collections::BTreeSet;

use schemas::OrgId;
use sqlx::{Row as _, Transaction};

use super::{Bind, Db, IDS_AT_ONCE, places, statement, texts};
use crate::scim::{
    patch::Members,
    problem::{Problem, Result, shortened},
};

/// Changes a group's members, in order; whether anything changed. Who comes was [locked](lock).
pub(super) async fn change(
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    group: &str,
    changes: &[Members],
    now_us: i64,
) -> Result<bool> {
    let mut group = Group { transaction, own: [Bind::Text(org.to_string()), Bind::Text(group.to_owned())], now_us };
    let mut changed = false;
    for change in changes {
        changed |= match change {
            Members::Add(ids) => group.add(&unique(ids)).await?,
            Members::Remove(ids) => group.remove(&unique(ids)).await?,
            Members::Set(ids) => {
                let (wanted, have) = (BTreeSet::from_iter(ids.iter().cloned()), group.members().await?);
                let gone: Vec<String> = have.difference(&wanted).cloned().collect();
                let new: Vec<String> = wanted.difference(&have).cloned().collect();
                // Both, and not `||`, which would leave one out.
                group.remove(&gone).await? | group.add(&new).await?
            }
        };
    }
    Ok(changed)
}

fn unique(ids: &[String]) -> Vec<String> {
    ids.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

struct Group<'a, 'c> {
    transaction: &'a mut Transaction<'c, Db>,
    /// Organisation and id: `$1` and `$2`.
    own: [Bind; 2],
    now_us: i64,
}

impl Group<'_, '_> {
    fn values(&self, ids: &[String]) -> impl Iterator<Item = Bind> {
        self.own.clone().into_iter().chain([Bind::Number(self.now_us)]).chain(texts(ids).collect::<Vec<_>>())
    }

    async fn members(&mut self) -> Result<BTreeSet<String>> {
        let select = "SELECT person_id FROM memberships WHERE org_id = $1 AND group_id = $2 AND valid_to_us IS NULL";
        let rows = statement(select.to_owned(), self.own.clone()).fetch_all(&mut **self.transaction).await?;
        Ok(rows.iter().map(|row| row.try_get("person_id")).collect::<Result<_, _>>()?)
    }

    async fn add(&mut self, ids: &[String]) -> Result<bool> {
        let mut added = 0;
        for ids in ids.chunks(IDS_AT_ONCE) {
            let insert = format!(
                "INSERT INTO memberships (org_id, group_id, person_id, valid_from_us) \
                 SELECT people.org_id, $2, people.id, $3 FROM people WHERE people.org_id = $1 AND people.id IN ({}) \
                 AND NOT EXISTS (SELECT 1 FROM memberships AS now WHERE now.org_id = $1 AND now.group_id = $2 \
                     AND now.person_id = people.id AND now.valid_to_us IS NULL) \
                 ON CONFLICT (org_id, group_id, person_id, valid_from_us) DO UPDATE SET valid_to_us = NULL",
                places(4, ids.len())
            );
            // (Who left and came back within a microsecond never left.)
            added += statement(insert, self.values(ids)).execute(&mut **self.transaction).await?.rows_affected();
        }
        Ok(added > 0)
    }

    async fn remove(&mut self, ids: &[String]) -> Result<bool> {
        let mut removed = 0;
        for ids in ids.chunks(IDS_AT_ONCE) {
            let update = format!(
                "UPDATE memberships SET valid_to_us = $3 WHERE org_id = $1 AND group_id = $2 AND valid_to_us IS NULL AND person_id IN ({})",
                places(4, ids.len())
            );
            removed += statement(update, self.values(ids)).execute(&mut **self.transaction).await?.rows_affected();
        }
        Ok(removed > 0)
    }
}

/// Sees to it that who is to be a member is a person of the organisation, and is not deleted before the write has ended.
///
/// # Errors
/// `invalidValue` where one is no person of the organisation.
pub(super) async fn lock(transaction: &mut Transaction<'_, Db>, org: &OrgId, changes: &[Members]) -> Result<()> {
    let mut coming = BTreeSet::new();
    for change in changes {
        if let Members::Add(ids) | Members::Set(ids) = change {
            coming.extend(ids);
        }
    }
    let ids: Vec<String> = coming.into_iter().cloned().collect();
    for ids in ids.chunks(IDS_AT_ONCE) {
        let chosen = format!("WHERE org_id = $1 AND id IN ({})", places(2, ids.len()));
        let values = || [Bind::Text(org.to_string())].into_iter().chain(texts(ids));
        let update = statement(format!("UPDATE people SET version = version {chosen}"), values());
        if update.execute(&mut **transaction).await?.rows_affected() == ids.len() as u64 {
            continue;
        }
        let rows = statement(format!("SELECT id FROM people {chosen}"), values()).fetch_all(&mut **transaction).await?;
        let known = rows.iter().map(|row| row.try_get::<String, _>("id")).collect::<Result<BTreeSet<_>, _>>()?;
        let unknown = ids.iter().find(|id| !known.contains(*id)).map_or_else(String::new, |id| shortened(id));
        return Err(Problem::value(format!("The member {unknown} is no user.")));
    }
    Ok(())
}

/// Whether a group has the members already that a change would give it. Of several changes, and of more than are named in one statement,
/// nothing is said.
pub(super) async fn same(
    transaction: &mut Transaction<'_, Db>,
    org: &OrgId,
    group: &str,
    changes: &[Members],
) -> Result<bool> {
    let [change] = changes else { return Ok(changes.is_empty()) };
    let ids = match change {
        Members::Add(ids) | Members::Remove(ids) | Members::Set(ids) => unique(ids),
    };
    if ids.len() > IDS_AT_ONCE {
        return Ok(false);
    }
    let own = [Bind::Text(org.to_string()), Bind::Text(group.to_owned())];
    let mut named = 0;
    if !ids.is_empty() {
        let condition = format!(" AND person_id IN ({})", places(3, ids.len()));
        named = count(transaction, &condition, own.iter().cloned().chain(texts(&ids)).collect()).await?;
    }
    Ok(match change {
        Members::Add(_) => named == ids.len(),
        Members::Remove(_) => named == 0,
        Members::Set(_) => named == ids.len() && count(transaction, "", own.to_vec()).await? == ids.len(),
    })
}

async fn count(transaction: &mut Transaction<'_, Db>, condition: &str, values: Vec<Bind>) -> Result<usize> {
    let select = format!(
        "SELECT COUNT(*) AS members FROM memberships WHERE org_id = $1 AND group_id = $2 AND valid_to_us IS NULL{condition}"
    );
    let members: i64 = statement(select, values).fetch_one(&mut **transaction).await?.try_get("members")?;
    Ok(usize::try_from(members).unwrap_or(usize::MAX))
}
