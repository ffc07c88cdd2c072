//! What is collected about an organisation's people, who decided it, and what of it a credential shows: for every member, whatever the opt-in.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Uri},
};
use directory::OptIn;
use schemas::{DEAD_LETTERS, EVENTS, tables};
use serde_json::{Value, json};

use super::{Query, auth, params::Pairs, problem::Problem};
use crate::{
    Error,
    columns::catalogue_of,
    policy::{Rows, Sight},
};

/// `GET /v1/opt-in`.
pub(super) async fn read(State(query): State<Query>, uri: Uri, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    let access = auth::reader(&query, &headers).await?;
    Pairs::parse(uri.query(), &[])?;
    let org = access.org().ok_or_else(|| Problem::unauthorized(true))?;
    let changes = query.directory().opt_in_changes(org).await;
    let changes = changes.map_err(|error| Problem::from_error(&Error::Directory(error), false))?;
    let level = changes.last().map_or(OptIn::Off, |change| change.level);
    let changes = changes.iter().rev().map(|change| {
        let at = change.at.to_string();
        json!({ "at": at, "opt_in": change.level.as_str(), "actor": change.actor, "reason": change.reason })
    });
    let shown = tables::all().filter(|spec| spec.name != DEAD_LETTERS.name).map(|spec| {
        let (rows, why) = match access.sight(spec) {
            Sight::Closed(why) => ("none", Some(why.to_string())),
            Sight::Rows(Rows { pseudonyms: Some(_), .. }) => ("pseudonymous", None),
            Sight::Rows(Rows { only: Some(_), .. }) => ("part", None),
            Sight::Rows(_) | Sight::Everything => ("all", None),
        };
        json!({ "table": spec.name, "rows": rows, "why": why })
    });
    Ok(Json(json!({
        "organisation": org.as_str(),
        "opt_in": level.as_str(),
        "meaning": level.meaning(),
        "changes": changes.collect::<Vec<_>>(),
        "shown": shown.collect::<Vec<_>>(),
        "collected": catalogue_of(&EVENTS, "An event, as a client sends it: what was done and when, and no content."),
    })))
}
