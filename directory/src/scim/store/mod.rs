//! People, groups and memberships in the database. Every statement names the organisation, which comes from the key.
//!
//! What is changed was read in the same transaction, and is written if it still has that version.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt as _;
use jiff::Timestamp;
use schemas::OrgId;
use serde_json::{Value, json};
use sqlx::{Any as Db, Executor, Row as _, any::AnyRow as DbRow, query::Query};

use super::{
    document::{self, Object},
    problem::{Problem, Result},
    schema::Type,
};
use crate::{Directory, Error};

mod batch;
mod keys;
mod list;
mod members;
mod write;

pub(crate) use batch::Lane;
pub(super) use list::{Page, Wanted};
pub(super) use write::{Change, Write};

/// Ids in one statement.
const IDS_AT_ONCE: usize = 400;
/// Most members in memory at once, but that one group is never cut.
const MEMBERS_MAX: i64 = 50_000;

/// A user or group as it is kept.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub(super) of: Type,
    pub(super) id: String,
    /// Counts changes, from 1.
    pub(super) version: i64,
    pub(super) created_us: i64,
    pub(super) modified_us: i64,
    /// Without `id`, `schemas`, `meta`; a group without `members`, a user without `groups`, until they are attached.
    pub(super) body: Object,
    /// Length of its document where it was read from the database [bytes].
    pub(super) length: usize,
}

impl Resource {
    /// Its ETag.
    pub(super) fn etag(&self) -> String {
        format!("W/\"{}\"", self.version)
    }

    /// Whether a header names its version: a list of ETags, or `*`. Compared weakly: ours are weak (RFC 7644 §3.14, RFC 9110 §8.8.3.2).
    pub(super) fn is_of(&self, header: &str) -> bool {
        let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        header.trim() == "*" || header.split(',').any(|one| bare(one) == bare(&self.etag()))
    }

    pub(super) fn location(&self, base: &str) -> String {
        format!("{base}/{}/{}", self.of.endpoint(), self.id)
    }

    /// All of it, as RFC 7643 §8 writes it.
    pub(super) fn whole(&self, base: &str) -> Object {
        let time =
            |us| Timestamp::from_microsecond(us).map_or_else(|_| Value::Null, |time| format!("{time:.6}").into());
        let mut whole = Object::new();
        whole.insert("schemas".to_owned(), document::schemas(self.of, &self.body).into());
        whole.insert("id".to_owned(), self.id.clone().into());
        whole.extend(self.body.clone());
        let meta = json!({
            "resourceType": self.of.name(),
            "created": time(self.created_us),
            "lastModified": time(self.modified_us),
            "location": self.location(base),
            "version": self.etag(),
        });
        whole.insert("meta".to_owned(), meta);
        whole
    }

    /// The userName of a user, the displayName of a group.
    fn name(&self) -> &str {
        let name = if self.of == Type::User { "userName" } else { "displayName" };
        self.text(name).unwrap_or_default()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.body.get(name).and_then(Value::as_str)
    }

    /// `None` = not said, which counts as active.
    fn active(&self) -> Option<bool> {
        self.body.get("active").and_then(Value::as_bool)
    }
}

/// Columns of [`resource`].
const COLUMNS: &str = "id, document, version, created_at_us, modified_at_us";

fn resource(of: Type, row: &DbRow) -> Result<Resource, Error> {
    let column = |name| row.try_get::<i64, _>(name).map_err(Error::Database);
    let text: String = row.try_get("document").map_err(Error::Database)?;
    let body =
        serde_json::from_str(&text).map_err(|_| Error::Corrupt { column: "document", value: "…".to_owned() })?;
    Ok(Resource {
        of,
        id: row.try_get("id").map_err(Error::Database)?,
        version: column("version")?,
        created_us: column("created_at_us")?,
        modified_us: column("modified_at_us")?,
        body,
        length: text.len(),
    })
}

fn table(of: Type) -> &'static str {
    match of {
        Type::User => "people",
        Type::Group => "scim_groups",
    }
}

/// What of a table is there.
fn live(of: Type) -> &'static str {
    match of {
        Type::User => "",
        Type::Group => " AND deleted_at_us IS NULL",
    }
}

/// What is not in the document: other rows have it.
pub(super) fn attached(of: Type) -> &'static str {
    match of {
        Type::User => "groups",
        Type::Group => "members",
    }
}

/// A value for a `$1`.
#[derive(Clone, Debug)]
enum Bind {
    Text(String),
    Number(i64),
}

/// A statement of which the code alone has made the text, with its values.
fn statement(
    text: String,
    values: impl IntoIterator<Item = Bind>,
) -> Query<'static, Db, <Db as sqlx::Database>::Arguments> {
    let query = sqlx::query(sqlx::AssertSqlSafe(text));
    values.into_iter().fold(query, |query, value| match value {
        Bind::Text(text) => query.bind(text),
        Bind::Number(number) => query.bind(number),
    })
}

/// `$4, $5, $6`
fn places(from: usize, count: usize) -> String {
    (from..from + count).map(|at| format!("${at}")).collect::<Vec<_>>().join(", ")
}

fn texts<'a>(all: impl IntoIterator<Item = &'a String>) -> impl Iterator<Item = Bind> {
    all.into_iter().map(|text| Bind::Text(text.clone()))
}

/// Resources that a statement chooses, at least one, until they have more than `most` bytes: memory is not the database's.
async fn some(
    directory: &Directory,
    of: Type,
    select: String,
    values: impl IntoIterator<Item = Bind>,
    most: usize,
) -> Result<Vec<Resource>> {
    let mut rows = statement(select, values).fetch(&directory.pool);
    let (mut found, mut length) = (Vec::new(), 0);
    while length <= most
        && let Some(row) = rows.try_next().await?
    {
        let one = resource(of, &row)?;
        length += one.length;
        found.push(one);
    }
    Ok(found)
}

async fn read(by: impl Executor<'_, Database = Db>, org: &OrgId, of: Type, id: &str) -> Result<Option<Resource>> {
    let select = format!("SELECT {COLUMNS} FROM {} WHERE org_id = $1 AND id = $2{}", table(of), live(of));
    let select = statement(select, [Bind::Text(org.to_string()), Bind::Text(id.to_owned())]);
    let row = select.fetch_optional(by).await?;
    Ok(row.map(|row| resource(of, &row)).transpose()?)
}

impl Directory {
    /// A resource of the organisation, without what is attached.
    pub(super) async fn scim_read(&self, org: &OrgId, of: Type, id: &str) -> Result<Option<Resource>> {
        read(&self.pool, org, of, id).await
    }

    /// How many of `resources`, from the first on and at least one, have together no more than [`MEMBERS_MAX`] members.
    async fn scim_fitting(&self, org: &OrgId, of: Type, resources: &[Resource]) -> Result<usize> {
        if of == Type::User {
            return Ok(resources.len());
        }
        let mut members: HashMap<String, i64> = HashMap::new();
        for some in resources.chunks(IDS_AT_ONCE) {
            let select = format!(
                "SELECT group_id, COUNT(*) AS members FROM memberships \
                 WHERE org_id = $1 AND valid_to_us IS NULL AND group_id IN ({}) GROUP BY group_id",
                places(2, some.len())
            );
            let values = [Bind::Text(org.to_string())].into_iter().chain(texts(some.iter().map(|one| &one.id)));
            for row in &statement(select, values).fetch_all(&self.pool).await? {
                members.insert(row.try_get("group_id")?, row.try_get("members")?);
            }
        }
        let mut total = 0;
        let fitting = resources.iter().take_while(|one| {
            total += members.get(&one.id).copied().unwrap_or(0);
            total <= MEMBERS_MAX
        });
        Ok(fitting.count().max(1).min(resources.len()))
    }

    /// Puts `members` into groups and `groups` into users.
    pub(super) async fn scim_attach(
        &self,
        org: &OrgId,
        of: Type,
        resources: &mut [Resource],
        base: &str,
    ) -> Result<()> {
        let (name, own_id, other_id, other) = match of {
            Type::Group => ("members", "group_id", "person_id", Type::User),
            Type::User => ("groups", "person_id", "group_id", Type::Group),
        };
        for some in resources.chunks_mut(IDS_AT_ONCE) {
            // (CROSS JOIN, and sorted here: SQLite would begin with all groups, or take an index for its order.)
            let (display, groups, joined) = match of {
                Type::Group => ("", "", ""),
                Type::User => (
                    ", scim_groups.display AS display",
                    " CROSS JOIN scim_groups",
                    " AND scim_groups.org_id = $1 AND scim_groups.id = group_id",
                ),
            };
            let select = format!(
                "SELECT {own_id} AS own_id, {other_id} AS other_id{display} FROM memberships{groups} \
                 WHERE memberships.org_id = $1 AND valid_to_us IS NULL AND {own_id} IN ({ids}){joined}",
                ids = places(2, some.len()),
            );
            let values = texts(some.iter().map(|one| &one.id));
            let select = statement(select, [Bind::Text(org.to_string())].into_iter().chain(values));
            let rows = select.fetch_all(&self.pool).await?;
            let mut attached: HashMap<String, BTreeMap<String, Value>> = HashMap::new();
            for row in &rows {
                let id: String = row.try_get("other_id")?;
                let reference = format!("{base}/{}/{id}", other.endpoint());
                let value = match of {
                    Type::Group => json!({ "value": id, "$ref": reference, "type": "User" }),
                    Type::User => {
                        let display: String = row.try_get("display")?;
                        json!({ "value": id, "$ref": reference, "display": display, "type": "direct" })
                    }
                };
                attached.entry(row.try_get("own_id")?).or_default().insert(id, value);
            }
            for one in some {
                if let Some(values) = attached.remove(&one.id) {
                    one.body.insert(name.to_owned(), values.into_values().collect());
                }
            }
        }
        Ok(())
    }
}

/// What an error of the database says about a write.
fn refused(error: sqlx::Error, of: Type, name: &str) -> Problem {
    let taken = error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation);
    if taken {
        let named = super::problem::shortened(name);
        return Problem::bad(super::problem::Cause::Uniqueness, format!("There is another {} {named}.", of.name()));
    }
    error.into()
}
