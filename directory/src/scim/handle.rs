//! What is done with one request, whether it came alone or in a bulk.

use schemas::OrgId;
use serde_json::Value;

use super::{
    Scim,
    answer::{Answer, list},
    document::{self, Object},
    filter,
    patch::{self, Members},
    path::Path,
    problem::{Problem, Result},
    projection::Projection,
    schema::{Type, member},
    store::{Change, Page, Resource, Wanted, Write, attached},
};

/// Most resources of a page, and as many as a page has where nothing is said.
pub(super) const COUNT_MAX: usize = 1_000;
const COUNT_DEFAULT: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// A request on resources.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub(super) org: &'a OrgId,
    pub(super) method: Method,
    /// Below `/scim/v2`.
    pub(super) path: &'a [&'a str],
    pub(super) question: Question,
    pub(super) if_match: Option<String>,
    pub(super) if_none_match: Option<String>,
    pub(super) body: Option<Value>,
    /// Address of `/scim/v2`, as the client knows it.
    pub(super) base: &'a str,
}

/// The parameters of a request, from the address or the body of a `/.search` (RFC 7644 §3.4.2, §3.4.3).
#[derive(Clone, Debug, Default)]
pub(super) struct Question {
    pub(super) filter: Option<String>,
    pub(super) sort_by: Option<String>,
    pub(super) descending: bool,
    pub(super) start: Option<i64>,
    pub(super) count: Option<i64>,
    pub(super) attributes: Vec<String>,
    pub(super) excluded: Vec<String>,
}

impl Question {
    /// Of the members that `value` gives by name.
    ///
    /// # Errors
    /// `invalidValue` where one is not what it must be.
    pub(super) fn new(value: impl Fn(&str) -> Option<Value>) -> Result<Self> {
        let text = |name: &str| match value(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
            Some(_) => Err(Problem::value(format!("`{name}` is a text."))),
        };
        let number = |name: &str| {
            let wrong = || Problem::value(format!("`{name}` is a whole number."));
            match value(name) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => text.trim().parse().map(Some).map_err(|_| wrong()),
                Some(other) => other.as_i64().map(Some).ok_or_else(wrong),
            }
        };
        let names = |name: &str| -> Result<Vec<String>> {
            let trimmed =
                |text: &str| text.split(',').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect();
            match value(name) {
                None | Some(Value::Null) => Ok(Vec::new()),
                Some(Value::String(text)) => Ok(trimmed(&text)),
                Some(Value::Array(all)) => {
                    let one = |name: &Value| name.as_str().map(str::to_owned);
                    all.iter()
                        .map(one)
                        .collect::<Option<_>>()
                        .ok_or_else(|| Problem::value(format!("`{name}` is a list of texts.")))
                }
                Some(_) => Err(Problem::value(format!("`{name}` is a list of texts."))),
            }
        };
        Ok(Self {
            filter: text("filter")?,
            sort_by: text("sortBy")?,
            descending: text("sortOrder")?.is_some_and(|order| order.eq_ignore_ascii_case("descending")),
            start: number("startIndex")?,
            count: number("count")?,
            attributes: names("attributes")?,
            excluded: names("excludedAttributes")?,
        })
    }

    fn projection(&self) -> Result<Projection> {
        Projection::new(&self.attributes, &self.excluded)
    }

    /// A start before the first is the first, a negative count is none (RFC 7644 §3.4.2.4).
    fn wanted(&self, projection: &Projection, of: Type) -> Result<Wanted> {
        let number =
            |number: Option<i64>, default| number.map_or(default, |number| usize::try_from(number).unwrap_or(0));
        Ok(Wanted {
            filter: self.filter.as_deref().map(filter::parse).transpose()?,
            sort_by: self.sort_by.as_deref().map(Path::parse).transpose()?,
            descending: self.descending && self.sort_by.is_some(),
            start: number(self.start, 1).max(1),
            count: number(self.count, COUNT_DEFAULT).min(COUNT_MAX),
            attached: projection.shows(of, attached(of)),
        })
    }
}

impl Scim {
    /// Does what a request on users or groups asks for.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) async fn handle(&self, call: &Call<'_>) -> Result<Answer> {
        match (call.method, call.path) {
            (Method::Post, [".search"]) => self.search(call, &Type::ALL).await,
            (method, [endpoint, rest @ ..]) => {
                let missing = || Problem::missing("resource", &call.path.join("/"));
                // No id has one, and databases take none.
                if rest.iter().any(|part| part.contains('\0')) {
                    return Err(missing());
                }
                let of = Type::of_endpoint(endpoint).ok_or_else(missing)?;
                match (method, rest) {
                    (Method::Get, []) => self.list(call, &[of], &call.question).await,
                    (Method::Post, []) => self.create(call, of).await,
                    (Method::Post, [".search"]) => self.search(call, &[of]).await,
                    (Method::Get, [id]) => self.read(call, of, id).await,
                    (Method::Put | Method::Patch, [id]) => self.change(call, of, id).await,
                    (Method::Delete, [id]) => self.delete(call, of, id).await,
                    (_, [] | [_]) => Err(Problem::new(405, "That cannot be done here.")),
                    _ => Err(missing()),
                }
            }
            _ => Err(Problem::missing("resource", "")),
        }
    }

    async fn search(&self, call: &Call<'_>, types: &[Type]) -> Result<Answer> {
        let body = call.body.as_ref().and_then(Value::as_object);
        let body = body.ok_or_else(|| Problem::syntax("A search is a JSON object."))?;
        let question = Question::new(|name| member(body, name).cloned())?;
        self.list(call, types, &question).await
    }

    /// A list of resources of some types, those of the first type first.
    async fn list(&self, call: &Call<'_>, types: &[Type], question: &Question) -> Result<Answer> {
        let projection = question.projection()?;
        let (mut total, mut shown, mut start, mut short) = (0, Vec::new(), 1, false);
        for of in types {
            let mut wanted = question.wanted(&projection, *of)?;
            start = wanted.start;
            wanted.start = wanted.start.saturating_sub(total).max(1);
            // After a page that ended early nothing comes: it would stand in the place of what is left.
            wanted.count = if short { 0 } else { wanted.count.saturating_sub(shown.len()) };
            let (skipped, most) = (wanted.start - 1, wanted.count);
            let Page { total: more, resources } = self.directory.scim_list(call.org, *of, wanted, call.base).await?;
            short |= resources.len() < most.min(more.saturating_sub(skipped));
            total += more;
            shown.extend(resources.iter().map(|one| Value::from(projection.apply(*of, one.whole(call.base)))));
        }
        Ok(Answer::ok(list(total, start, shown)))
    }

    async fn read(&self, call: &Call<'_>, of: Type, id: &str) -> Result<Answer> {
        let found = self.directory.scim_read(call.org, of, id).await?;
        let found = found.ok_or_else(|| Problem::missing(of.name(), id))?;
        let etag = found.etag();
        if call.if_none_match.as_deref().is_some_and(|known| found.is_of(known)) {
            return Ok(Answer { etag: Some(etag), ..Answer::empty(304) });
        }
        self.shown(call, found, 200).await
    }

    async fn create(&self, call: &Call<'_>, of: Type) -> Result<Answer> {
        let (body, mut members) = sent(of, call.body.as_ref())?;
        // Who is new has none.
        members.retain(|set| *set != Members::Set(Vec::new()));
        let made = self.directory.scim_write(call.org, Write::Create { of, body, members }, self.clock).await?;
        self.shown(call, made.resource, 201).await
    }

    async fn change(&self, call: &Call<'_>, of: Type, id: &str) -> Result<Answer> {
        let change = if call.method == Method::Put {
            let (body, members) = sent(of, call.body.as_ref())?;
            Change::Whole { body, members }
        } else {
            Change::Patch(call.body.clone().ok_or_else(|| Problem::syntax("A PATCH has a body."))?)
        };
        let write = Write::Change { of, id: id.to_owned(), change, if_match: call.if_match.clone() };
        let changed = self.directory.scim_write(call.org, write, self.clock).await?;
        self.changed(call, of, changed.resource).await
    }

    /// A group may be large, and those who add a member want to see none: 204 (RFC 7644 §3.5.2) unless attributes are named.
    async fn changed(&self, call: &Call<'_>, of: Type, changed: Resource) -> Result<Answer> {
        if of == Type::Group && call.method == Method::Patch && call.question.attributes.is_empty() {
            return Ok(Answer {
                etag: Some(changed.etag()),
                location: Some(changed.location(call.base)),
                ..Answer::empty(204)
            });
        }
        self.shown(call, changed, 200).await
    }

    async fn delete(&self, call: &Call<'_>, of: Type, id: &str) -> Result<Answer> {
        let write = Write::Delete { of, id: id.to_owned(), if_match: call.if_match.clone() };
        self.directory.scim_write(call.org, write, self.clock).await?;
        Ok(Answer::empty(204))
    }

    /// A resource as the client wants to see it.
    async fn shown(&self, call: &Call<'_>, resource: Resource, status: u16) -> Result<Answer> {
        let of = resource.of;
        let projection = call.question.projection()?;
        let mut resource = [resource];
        // Who is new is in no group.
        if projection.shows(of, attached(of)) && !(of == Type::User && status == 201) {
            self.directory.scim_attach(call.org, of, &mut resource, call.base).await?;
        }
        let [resource] = resource;
        Ok(Answer {
            status,
            etag: Some(resource.etag()),
            location: Some(resource.location(call.base)),
            body: Some(projection.apply(of, resource.whole(call.base)).into()),
        })
    }
}

/// A whole resource as it was sent, and a group's members.
fn sent(of: Type, body: Option<&Value>) -> Result<(Object, Vec<Members>)> {
    let body = body.ok_or_else(|| Problem::syntax("A resource is needed: a JSON object."))?;
    let mut kept = document::cleaned(of, body)?;
    if of == Type::User {
        return Ok((kept, Vec::new()));
    }
    let attribute = of.schema().attribute("members").expect("groups have members");
    let members = kept.remove("members").unwrap_or(Value::Null);
    Ok((kept, vec![Members::Set(patch::ids(attribute, &members)?)]))
}
