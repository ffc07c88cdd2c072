//! Bulk (RFC 7644 §3.7): many requests in one, each with an outcome of its own. What refers to a resource that another makes
//! (`bulkId:…`) waits for it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Scim,
    answer::Answer,
    handle::{Call, Method, Question},
    problem::{Cause, Problem, Result},
    schema::member,
};

/// Most operations of a bulk.
pub(super) const OPERATIONS_MAX: usize = 1_000;
/// Values within values of an operation's data.
const DEPTH_MAX: usize = 16;
/// After so long no further operation is begun, so that outcomes are told before the whole is too late.
const BEGUN_WITHIN: Duration = Duration::from_secs(20);
const REFERENCE: &str = "bulkId:";

struct Operation {
    method: Method,
    name: String,
    bulk_id: Option<String>,
    version: Option<String>,
    path: String,
    data: Option<Value>,
}

impl Operation {
    fn new(value: &Value) -> Result<Self> {
        let value = value.as_object().ok_or_else(|| Problem::syntax("An operation of a bulk is an object."))?;
        let text = |name: &str| member(value, name).and_then(Value::as_str).map(str::to_owned);
        let name = text("method").unwrap_or_default().to_ascii_uppercase();
        let method = match name.as_str() {
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "PATCH" => Method::Patch,
            "DELETE" => Method::Delete,
            _ => return Err(Problem::syntax("`method` of a bulk's operation is POST, PUT, PATCH or DELETE.")),
        };
        let bulk_id = text("bulkId");
        if method == Method::Post && bulk_id.is_none() {
            return Err(Problem::syntax("A POST in a bulk has a `bulkId`."));
        }
        let path = text("path").ok_or_else(|| Problem::syntax("An operation of a bulk has a `path`."))?;
        let data = member(value, "data").cloned();
        if data.as_ref().is_some_and(|data| depth(data) > DEPTH_MAX) {
            return Err(Problem::syntax("`data` has too many values within values."));
        }
        Ok(Self { method, name, bulk_id, version: text("version"), path, data })
    }

    /// The `bulkId`s that it refers to.
    fn references(&self) -> HashSet<String> {
        let mut found = HashSet::new();
        found.extend(self.path.split('/').filter_map(|part| part.strip_prefix(REFERENCE)).map(str::to_owned));
        if let Some(data) = &self.data {
            gather(data, &mut found);
        }
        found
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(all) => 1 + all.iter().map(depth).max().unwrap_or(0),
        Value::Object(all) => 1 + all.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn gather(value: &Value, found: &mut HashSet<String>) {
    match value {
        Value::String(text) => found.extend(text.strip_prefix(REFERENCE).map(str::to_owned)),
        Value::Array(all) => all.iter().for_each(|one| gather(one, found)),
        Value::Object(all) => all.values().for_each(|one| gather(one, found)),
        _ => {}
    }
}

fn resolve(value: &mut Value, ids: &HashMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(id) = text.strip_prefix(REFERENCE).and_then(|name| ids.get(name)) {
                text.clone_from(id);
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| resolve(one, ids)),
        Value::Object(all) => all.values_mut().for_each(|one| resolve(one, ids)),
        _ => {}
    }
}

impl Scim {
    /// Works through a bulk, up to `failOnErrors` failures.
    ///
    /// # Errors
    /// Where it is no bulk, or has too many operations (413).
    pub(super) async fn bulk(&self, call: &Call<'_>) -> Result<Answer> {
        let body = call.body.as_ref().and_then(Value::as_object);
        let operations = body.and_then(|body| member(body, "Operations")).and_then(Value::as_array);
        let (Some(body), Some(operations)) = (body, operations) else {
            return Err(Problem::syntax("A bulk has a list `Operations`."));
        };
        if operations.len() > OPERATIONS_MAX {
            return Err(Problem::new(413, format!("A bulk takes at most {OPERATIONS_MAX} operations.")));
        }
        let limit = match member(body, "failOnErrors") {
            None | Some(Value::Null) => u64::MAX,
            Some(limit) => limit
                .as_u64()
                .filter(|limit| *limit > 0)
                .ok_or_else(|| Problem::syntax("`failOnErrors` is 1 or more."))?,
        };
        let operations = operations.iter().map(Operation::new).collect::<Result<Vec<_>>>()?;
        let names = operations.iter().filter_map(|operation| operation.bulk_id.as_deref());
        let mut seen = HashSet::new();
        if let Some(twice) = names.into_iter().find(|name| !seen.insert(*name)) {
            return Err(Problem::value(format!("The bulkId {} is there twice.", super::problem::shortened(twice))));
        }
        let end = Instant::now() + BEGUN_WITHIN;
        let mut run = Run { scim: self, call, end, ids: HashMap::new(), outcomes: Vec::new(), failures: 0 };
        let mut waiting = operations;
        while !waiting.is_empty() && run.failures < limit {
            let before = waiting.len();
            let mut still = Vec::new();
            for mut operation in waiting {
                if run.failures >= limit {
                    break;
                }
                let references = operation.references();
                if references.iter().all(|name| run.ids.contains_key(name)) {
                    run.one(&mut operation).await;
                } else {
                    still.push(operation);
                }
            }
            waiting = still;
            if waiting.len() == before {
                // Nobody makes what these wait for: it failed, is not there, or they wait for each other.
                for operation in waiting.drain(..) {
                    if run.failures < limit {
                        let problem = Problem {
                            cause: Some(Cause::InvalidValue),
                            ..Problem::new(409, "A bulkId that it refers to was not made.")
                        };
                        run.tell(&operation, problem.into());
                    }
                }
            }
        }
        Ok(Answer::ok(json!({
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkResponse"],
            "Operations": run.outcomes,
        })))
    }
}

struct Run<'a> {
    scim: &'a Scim,
    call: &'a Call<'a>,
    end: Instant,
    /// Of what was made, by `bulkId`.
    ids: HashMap<String, String>,
    outcomes: Vec<Value>,
    failures: u64,
}

impl Run<'_> {
    async fn one(&mut self, operation: &mut Operation) {
        if let Some(data) = &mut operation.data {
            resolve(data, &self.ids);
        }
        let path = operation.path.trim_start_matches('/').split('/').map(|part| match part.strip_prefix(REFERENCE) {
            Some(name) => self.ids.get(name).map_or(part, String::as_str),
            None => part,
        });
        let path: Vec<&str> = path.collect();
        // A search or a bulk in a bulk is none of its operations.
        let answer = if path.last().is_some_and(|last| last.starts_with('.')) {
            Problem::missing("resource", &operation.path).into()
        } else if Instant::now() > self.end {
            Problem::late().into()
        } else {
            let call = Call {
                org: self.call.org,
                method: operation.method,
                path: &path,
                question: Question::default(),
                if_match: operation.version.clone(),
                if_none_match: None,
                body: operation.data.take(),
                base: self.call.base,
            };
            self.scim.handle(&call).await.unwrap_or_else(Answer::from)
        };
        if let (201, Some(name), Some(body)) = (answer.status, &operation.bulk_id, &answer.body)
            && let Some(id) = body.get("id").and_then(Value::as_str)
        {
            self.ids.insert(name.clone(), id.to_owned());
        }
        self.tell(operation, answer);
    }

    fn tell(&mut self, operation: &Operation, answer: Answer) {
        let mut outcome = json!({ "method": operation.name, "status": answer.status.to_string() });
        let parts = [("bulkId", operation.bulk_id.clone()), ("location", answer.location), ("version", answer.etag)];
        for (name, value) in parts {
            if let Some(value) = value {
                outcome[name] = value.into();
            }
        }
        if answer.status >= 400 {
            self.failures += 1;
            outcome["response"] = answer.body.unwrap_or_default();
        }
        self.outcomes.push(outcome);
    }
}
