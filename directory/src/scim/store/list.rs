//! Resources that a filter chooses, sorted, page by page (RFC 7644 §3.4.2).
//!
//! Equalities of the usual attributes, joined by `and`, go to the database. Whatever else a filter says is looked at here, over the
//! organisation's documents, so many at a time.

use schemas::OrgId;
use serde_json::Value;
use sqlx::Row as _;

use super::{Bind, COLUMNS, Resource, live, some, statement, table};
use crate::{
    Directory,
    scim::{
        filter::{self, Filter, Op, fold},
        path::{Path, Target},
        problem::{Cause, Problem, Result},
        schema::Type,
        store::attached,
    },
};

/// Documents in memory at once, and their length together [bytes].
const SCANNED_AT_ONCE: i64 = 500;
const SCANNED_BYTES: usize = 2 << 20;
/// A page ends early where its documents are longer together [bytes].
const PAGE_BYTES: usize = 4 << 20;
/// Most resources that are sorted here: an id and a short text of each are held.
const SORTED_MAX: usize = 200_000;
/// So much of a text is sorted by [characters].
const SORTED_BY: usize = 64;

/// What is asked for.
pub(in crate::scim) struct Wanted {
    pub(in crate::scim) filter: Option<Filter>,
    pub(in crate::scim) sort_by: Option<Path>,
    pub(in crate::scim) descending: bool,
    /// The first to be given, from 1.
    pub(in crate::scim) start: usize,
    /// Most to be given.
    pub(in crate::scim) count: usize,
    /// With `members` or `groups`.
    pub(in crate::scim) attached: bool,
}

/// What is given.
pub(in crate::scim) struct Page {
    /// All that the filter chooses.
    pub(in crate::scim) total: usize,
    pub(in crate::scim) resources: Vec<Resource>,
}

/// Conditions of the database, with their values; the rest of the filter.
#[derive(Default)]
struct Split {
    conditions: String,
    values: Vec<Bind>,
    rest: Vec<Filter>,
}

impl Split {
    fn new(org: &OrgId, of: Type, filter: Option<Filter>) -> Self {
        let mut split = Self { values: vec![Bind::Text(org.to_string())], ..Self::default() };
        match filter {
            Some(Filter::And(all)) => all.into_iter().for_each(|one| split.take(of, one)),
            Some(one) => split.take(of, one),
            None => {}
        }
        split
    }

    fn take(&mut self, of: Type, filter: Filter) {
        let place = self.values.len() + 1;
        match condition(of, &filter, place) {
            Some((text, value)) => {
                self.conditions.push_str(" AND ");
                self.conditions.push_str(&text);
                self.values.push(value);
            }
            None => self.rest.push(filter),
        }
    }

    /// The table's rows that the conditions choose.
    fn rows(&self, of: Type) -> String {
        format!("FROM {} WHERE org_id = $1{}{}", table(of), live(of), self.conditions)
    }
}

/// An equality as the database can look it up.
fn condition(of: Type, filter: &Filter, place: usize) -> Option<(String, Bind)> {
    let (path, value) = match filter {
        Filter::Compare { path, op: Op::Eq, value } => (path, value),
        // `members[value eq "id"]`
        Filter::Within { path, filter } => match &**filter {
            Filter::Compare { path: inner, op: Op::Eq, value } if inner.name.eq_ignore_ascii_case("value") => {
                (path, value)
            }
            _ => return None,
        },
        _ => return None,
    };
    let Some(Target::Attribute { extension: None, attribute, sub }) = path.resolve(of) else { return None };
    let within = matches!(filter, Filter::Within { .. });
    let is_value = sub.is_none_or(|sub| sub.name == "value");
    let membership = |own: &str, other: &str| {
        format!(
            "id IN (SELECT {own} FROM memberships AS m WHERE m.org_id = $1 AND m.{other} = ${place} AND m.valid_to_us IS NULL)"
        )
    };
    match (of, attribute.name, value) {
        (Type::Group, "members", Value::String(id)) if is_value => {
            Some((membership("group_id", "person_id"), Bind::Text(id.clone())))
        }
        (Type::User, "groups", Value::String(id)) if is_value => {
            Some((membership("person_id", "group_id"), Bind::Text(id.clone())))
        }
        _ if within || sub.is_some() => None,
        (_, "id", Value::String(id)) => Some((format!("id = ${place}"), Bind::Text(id.clone()))),
        (_, "externalId", Value::String(id)) => Some((format!("external_id = ${place}"), Bind::Text(id.clone()))),
        (Type::User, "userName", Value::String(name)) | (Type::Group, "displayName", Value::String(name)) => {
            Some((format!("name_folded = ${place}"), Bind::Text(fold(name))))
        }
        (Type::User, "displayName", Value::String(name)) => {
            Some((format!("display_folded = ${place}"), Bind::Text(fold(name))))
        }
        (Type::User, "active", Value::Bool(active)) => {
            Some((format!("active = ${place}"), Bind::Number(i64::from(*active))))
        }
        _ => None,
    }
}

/// The order, where the database has it.
fn order(of: Type, sort_by: Option<&Path>, descending: bool) -> Option<String> {
    let down = if descending { " DESC" } else { "" };
    let Some(path) = sort_by else { return Some(format!("id{down}")) };
    let target = path.resolve(of);
    let Some(Target::Attribute { extension: None, attribute, sub }) = target else { return None };
    let column = match (attribute.name, sub.map(|sub| sub.name), of) {
        ("id", ..) => return Some(format!("id{down}")),
        ("userName", _, Type::User) | ("displayName", _, Type::Group) => "name_folded",
        ("meta", Some("created"), _) => "created_at_us",
        ("meta", Some("lastModified"), _) => "modified_at_us",
        // What has no value comes last, descending first (RFC 7644 §3.4.2.3); databases differ.
        ("displayName", _, Type::User) => {
            return Some(format!("(display_folded IS NULL){down}, display_folded{down}, id"));
        }
        ("externalId", ..) => return Some(format!("(external_id IS NULL){down}, external_id{down}, id")),
        _ => return None,
    };
    Some(format!("{column}{down}, id"))
}

impl Directory {
    /// A page of an organisation's resources.
    ///
    /// # Errors
    /// `tooMany` where more than [`SORTED_MAX`] would have to be sorted here.
    pub(in crate::scim) async fn scim_list(&self, org: &OrgId, of: Type, wanted: Wanted, base: &str) -> Result<Page> {
        let mentioned = wanted.filter.as_ref().is_some_and(|filter| filter.mentions(of, attached(of)));
        let split = Split::new(org, of, wanted.filter);
        let order = order(of, wanted.sort_by.as_ref(), wanted.descending);
        let skip = wanted.start.saturating_sub(1);
        let mut page = match order {
            Some(order) if split.rest.is_empty() => self.by_database(of, &split, &order, skip, wanted.count).await?,
            order => {
                let scan = Scan { org, of, split, base, attached: mentioned };
                // Without a wish the order is that of ids, in which the scan goes.
                let by_id = wanted.sort_by.is_none() && !wanted.descending && order.is_some();
                let ids = if by_id {
                    self.window(&scan, skip, wanted.count).await?
                } else {
                    self.sorted(&scan, wanted.sort_by.as_ref(), wanted.descending, skip, wanted.count).await?
                };
                let (mut resources, mut length) = (Vec::new(), 0);
                for id in ids.1 {
                    // One that went meanwhile is left out.
                    let found = self.scim_read(org, of, &id).await?;
                    length += found.as_ref().map_or(0, |found| found.length);
                    resources.extend(found);
                    if length > PAGE_BYTES {
                        break;
                    }
                }
                Page { total: ids.0, resources }
            }
        };
        if wanted.attached {
            // A page may have fewer than were asked for (RFC 7644 §3.4.2.4): the client goes on after them.
            let fitting = self.scim_fitting(org, of, &page.resources).await?;
            page.resources.truncate(fitting);
            self.scim_attach(org, of, &mut page.resources, base).await?;
        }
        Ok(page)
    }

    async fn by_database(&self, of: Type, split: &Split, order: &str, skip: usize, count: usize) -> Result<Page> {
        let total = statement(format!("SELECT COUNT(*) AS total {}", split.rows(of)), split.values.clone());
        let total: i64 = total.fetch_one(&self.pool).await?.try_get("total")?;
        let total = usize::try_from(total).unwrap_or_default();
        if count == 0 || skip >= total {
            return Ok(Page { total, resources: Vec::new() });
        }
        // Ids first: what is skipped is walked over in an index. (CROSS JOIN: SQLite would go the other way round, over all rows.)
        let (limit, offset) = (split.values.len() + 1, split.values.len() + 2);
        let table = table(of);
        let page = format!("SELECT id AS page_id {} ORDER BY {order} LIMIT ${limit} OFFSET ${offset}", split.rows(of));
        let select = format!(
            "SELECT {COLUMNS} FROM ({page}) AS page CROSS JOIN {table} \
             WHERE {table}.org_id = $1 AND {table}.id = page.page_id ORDER BY {order}"
        );
        let values = split.values.clone().into_iter().chain([number(count), number(skip)]);
        Ok(Page { total, resources: some(self, of, select, values, PAGE_BYTES).await? })
    }

    /// How many the filter chooses, and the ids of some, in the order of ids.
    async fn window(&self, scan: &Scan<'_>, skip: usize, count: usize) -> Result<(usize, Vec<String>)> {
        let (mut total, mut ids) = (0, Vec::new());
        let mut after = String::new();
        while let Some(chosen) = self.scanned(scan, &mut after).await? {
            for one in chosen {
                if total >= skip && ids.len() < count {
                    ids.push(one.id);
                }
                total += 1;
            }
        }
        Ok((total, ids))
    }

    /// As [`Directory::window`], in the order of an attribute's primary or first value.
    async fn sorted(
        &self,
        scan: &Scan<'_>,
        sort_by: Option<&Path>,
        descending: bool,
        skip: usize,
        count: usize,
    ) -> Result<(usize, Vec<String>)> {
        let mut all = Vec::new();
        let mut after = String::new();
        while let Some(chosen) = self.scanned(scan, &mut after).await? {
            if all.len() + chosen.len() > SORTED_MAX {
                return Err(Problem::bad(
                    Cause::TooMany,
                    "Too many to sort by this attribute; a filter makes them fewer.",
                ));
            }
            all.extend(chosen.into_iter().map(|one| {
                let key = sort_by.and_then(|path| filter::sorted_by(path, scan.of, &one.whole(scan.base)));
                let key = key.map(|key| key.chars().take(SORTED_BY).collect::<String>());
                // What has no value comes last.
                (key.is_none(), key.unwrap_or_default(), one.id)
            }));
        }
        all.sort();
        if descending {
            all.reverse();
        }
        let total = all.len();
        Ok((total, all.into_iter().skip(skip).take(count).map(|(_, _, id)| id).collect()))
    }

    /// The next documents of a scan that the filter chooses; `None` at its end.
    async fn scanned(&self, scan: &Scan<'_>, after: &mut String) -> Result<Option<Vec<Resource>>> {
        let (place, limit) = (scan.split.values.len() + 1, scan.split.values.len() + 2);
        let select =
            format!("SELECT {COLUMNS} {} AND id > ${place} ORDER BY id LIMIT ${limit}", scan.split.rows(scan.of));
        let values =
            scan.split.values.clone().into_iter().chain([Bind::Text(after.clone()), Bind::Number(SCANNED_AT_ONCE)]);
        let mut found = some(self, scan.of, select, values, SCANNED_BYTES).await?;
        let Some(last) = found.last() else { return Ok(None) };
        after.clone_from(&last.id);
        // With members, so many groups at once as have not too many.
        let (mut chosen, mut from) = (Vec::with_capacity(found.len()), 0);
        while from < found.len() {
            let mut to = found.len();
            if scan.attached {
                to = from + self.scim_fitting(scan.org, scan.of, &found[from..]).await?;
                self.scim_attach(scan.org, scan.of, &mut found[from..to], scan.base).await?;
            }
            chosen.extend(found[from..to].iter().map(|one| scan.chooses(one)));
            found[from..to].iter_mut().for_each(|one| drop(one.body.remove(attached(scan.of))));
            from = to;
        }
        let mut chosen = chosen.into_iter();
        found.retain(|_| chosen.next() == Some(true));
        Ok(Some(found))
    }
}

impl Scan<'_> {
    fn chooses(&self, one: &Resource) -> bool {
        let whole = one.whole(self.base);
        self.split.rest.iter().all(|filter| filter::matches(filter, self.of, &whole))
    }
}

struct Scan<'a> {
    org: &'a OrgId,
    of: Type,
    split: Split,
    base: &'a str,
    /// The filter looks at `members` or `groups`.
    attached: bool,
}

fn number(number: usize) -> Bind {
    Bind::Number(i64::try_from(number).unwrap_or(i64::MAX))
}
