//! What the server says of itself: `/ServiceProviderConfig`, `/Schemas`, `/ResourceTypes` (RFC 7643 §5 to §7, RFC 7644 §4).

use serde_json::{Value, json};

use super::{
    answer::{Answer, list},
    bulk,
    handle::COUNT_MAX,
    problem::{Problem, Result},
    schema::Type,
    tables,
};

/// What lies at a path below `/scim/v2`.
///
/// # Errors
/// 404 where there is nothing, 403 where a filter is asked for (RFC 7644 §4).
pub(super) fn get(path: &[&str], filtered: bool, base: &str) -> Result<Answer> {
    if filtered {
        return Err(Problem::new(403, "This cannot be filtered."));
    }
    match path {
        ["ServiceProviderConfig"] => Ok(Answer::ok(configuration(base))),
        ["Schemas"] => Ok(all(tables::ALL.iter().map(|schema| schema.to_json(base)).collect())),
        ["Schemas", id] => {
            let found = tables::ALL.iter().find(|schema| schema.id.eq_ignore_ascii_case(id));
            found.map(|schema| Answer::ok(schema.to_json(base))).ok_or_else(|| Problem::missing("schema", id))
        }
        ["ResourceTypes"] => Ok(all(Type::ALL.iter().map(|of| of.to_json(base)).collect())),
        ["ResourceTypes", name] => {
            let found = Type::ALL.into_iter().find(|of| of.name() == *name);
            found.map(|of| Answer::ok(of.to_json(base))).ok_or_else(|| Problem::missing("resource type", name))
        }
        _ => Err(Problem::missing("resource", &path.join("/"))),
    }
}

fn all(resources: Vec<Value>) -> Answer {
    Answer::ok(list(resources.len(), 1, resources))
}

fn configuration(base: &str) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
        "patch": { "supported": true },
        "bulk": { "supported": true, "maxOperations": bulk::OPERATIONS_MAX, "maxPayloadSize": super::BODY_MAX },
        "filter": { "supported": true, "maxResults": COUNT_MAX },
        "changePassword": { "supported": false },
        "sort": { "supported": true },
        "etag": { "supported": true },
        "authenticationSchemes": [{
            "type": "oauthbearertoken",
            "name": "Bearer token",
            "description": "A key with the scope scim: daybook key create --scope scim",
            "specUri": "https://www.rfc-editor.org/rfc/rfc6750",
            "primary": true,
        }],
        "meta": {
            "resourceType": "ServiceProviderConfig",
            "location": format!("{base}/ServiceProviderConfig"),
        },
    })
}
