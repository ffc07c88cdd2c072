//! Every resource: its pages, parameters and columns, and what the OpenAPI document says of them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::world::{DAYS, ORGS, World};
use crate::{
    formats::Format,
    http::{
        SQL,
        resources::{Resource, resources},
    },
    public_routes, routes,
};

/// Rows of all pages, each of so many rows.
async fn walk(world: &World, org: &str, path: &str, limit: usize) -> Vec<Value> {
    let and = if path.contains('?') { '&' } else { '?' };
    let mut next = Some(format!("{path}{and}limit={limit}"));
    let mut rows = Vec::new();
    while let Some(here) = next {
        let answer = world.get(org, &here).await;
        assert_eq!(answer.status, 200, "{here}: {}", answer.text());
        let page = answer.json()["data"].as_array().expect("rows").clone();
        assert!(page.len() <= limit);
        rows.extend(page);
        let link = answer.header("link").to_owned();
        next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).map(str::to_owned);
    }
    rows
}

fn key(resource: &Resource, row: &Value) -> Vec<String> {
    resource.key.iter().map(|name| row[name].to_string()).collect()
}

#[tokio::test]
async fn every_resource_gives_each_own_row_once_in_order() {
    let world = World::filled().await;
    for resource in resources() {
        for (org, _) in ORGS {
            let whole = walk(&world, org, resource.path, 10_000).await;
            assert!(whole.len() >= DAYS as usize, "{}", resource.path);
            assert!(whole.iter().all(|row| row["org_id"] == org), "{}", resource.path);
            let keys: Vec<_> = whole.iter().map(|row| key(resource, row)).collect();
            assert!(keys.is_sorted() && keys.iter().collect::<BTreeSet<_>>().len() == keys.len(), "{}", resource.path);
            assert_eq!(walk(&world, org, resource.path, 3).await, whole, "{}", resource.path);
        }
    }
}

#[tokio::test]
async fn every_filter_chooses() {
    let world = World::filled().await;
    for resource in resources() {
        let whole = walk(&world, "acme", resource.path, 10_000).await;
        for filter in &resource.filters {
            // Of a filter with fixed values, the rows of this test hold none but client types.
            let chosen = &whole[0][filter.column];
            let is_known = filter.values.as_ref().is_none_or(|values| values.iter().any(|value| chosen == value));
            if !is_known {
                continue;
            }
            let mut path = url::Url::parse("http://daybook").expect("a URL").join(resource.path).expect("a path");
            path.query_pairs_mut().append_pair(filter.name, &chosen.as_str().expect("a text").replace(',', "\\,"));
            let found = walk(&world, "acme", &path[url::Position::BeforePath..], 10_000).await;
            let expected: Vec<_> = whole.iter().filter(|row| row[filter.column] == *chosen).cloned().collect();
            assert_eq!(found, expected, "{path}");
        }
        let date = resource.key[0];
        let day = whole.last().expect("rows")[date].as_str().expect("a day").to_owned();
        let found = walk(&world, "acme", &format!("{}?from={day}&to={day}", resource.path), 10_000).await;
        assert!(!found.is_empty() && found.len() < whole.len() && found.iter().all(|row| row[date] == *day));
    }
}

#[tokio::test]
async fn a_cursor_belongs_to_its_resource() {
    let world = World::filled().await;
    let first = world.get("acme", "/v1/models/daily?limit=3").await.json();
    let cursor = first["next_cursor"].as_str().expect("more");
    assert_eq!(world.get("acme", &format!("/v1/models/daily?cursor={cursor}")).await.status, 200);
    for resource in resources().iter().filter(|resource| resource.path != "/v1/models/daily") {
        let answer = world.get("acme", &format!("{}?cursor={cursor}", resource.path)).await;
        assert!([400, 410].contains(&answer.status.as_u16()), "{}: {}", resource.path, answer.text());
    }
}

/// What the document says of a path.
fn described<'a>(document: &'a Value, path: &str) -> &'a Value {
    &document["paths"][path][if path == SQL { "post" } else { "get" }]
}

#[tokio::test]
async fn the_document_describes_what_is_there() {
    let world = World::filled().await;
    let document = world.get("acme", "/v1/openapi.json").await.json();
    let paths: BTreeSet<&str> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    assert_eq!(paths, routes().into_iter().collect());
    let ids: Vec<&str> =
        paths.iter().map(|path| described(&document, path)["operationId"].as_str().expect("an id")).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "each operation has an id of its own");
    for path in routes().into_iter().filter(|path| !public_routes().contains(path)) {
        let operation = described(&document, path);
        let content = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        let mut schema = content.as_object().cloned().unwrap_or_else(Map::new);
        schema.insert("components".into(), document["components"].clone());
        let validator = jsonschema::draft202012::new(&Value::from(schema)).expect("a JSON Schema");
        let answer = match path {
            SQL => world.ask("acme", "SELECT user_key, prompts FROM rollup_daily", Format::Json).await,
            _ => world.get("acme", path).await,
        };
        let errors: Vec<String> = validator.iter_errors(&answer.json()).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{path}: {errors:?}");
        // Parameters: those and no others.
        let named: Vec<&str> = operation["parameters"]
            .as_array()
            .map(|all| all.iter().map(|one| one["name"].as_str().expect("a name")).collect())
            .unwrap_or_default();
        if path == SQL {
            assert_eq!(named, ["format"]);
            continue;
        }
        let problem = world.get("acme", &format!("{path}?colour=red")).await.problem(400, "unknown-parameter");
        assert_eq!(problem["known"], json!(named), "{path}");
    }
}

#[tokio::test]
async fn the_page_shows_every_path_and_column() {
    let world = World::empty().await;
    let answer = world.get("acme", "/v1/docs").await;
    assert!(answer.header("content-type").starts_with("text/html"));
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
    let page = answer.text();
    for resource in resources() {
        assert!(page.contains(&format!("GET {}<", resource.path)), "{}", resource.path);
        for field in resource.spec.schema().fields() {
            assert!(page.contains(&format!("<code>{}</code>", field.name())), "{}", field.name());
        }
    }
    assert!(!page.contains("null</td><td></td>"), "each column has its meaning");
}

/// A change of the document is a change for every client: look at it, then bless it.
#[tokio::test]
async fn the_document_is_as_it_was() {
    let document = World::empty().await.get("acme", "/v1/openapi.json").await.json();
    let text = format!("{document:#}\n");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    if std::env::var_os("DAYBOOK_BLESS").is_some() {
        std::fs::write(path, &text).expect("the document can be written");
    }
    let known = std::fs::read_to_string(path).expect("the document is there");
    assert!(known == text, "the API changed: write docs/openapi.json with DAYBOOK_BLESS=1, and look at the difference");
}

#[tokio::test]
async fn the_catalogue_names_every_column() {
    let world = World::empty().await;
    let catalogue = world.get("acme", "/v1/catalogue").await.json();
    let tables = catalogue["tables"].as_array().expect("tables");
    assert_eq!(tables.len(), resources().len());
    for (table, resource) in tables.iter().zip(resources()) {
        assert_eq!(table["path"], resource.path);
        let of = |entry: &Value| entry["name"].as_str().expect("a name").to_owned();
        let named: Vec<String> = table["columns"].as_array().expect("columns").iter().map(of).collect();
        let schema = resource.spec.schema();
        assert_eq!(named, schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>());
        let undescribed = |entry: &&Value| entry["comment"].as_str().is_none_or(str::is_empty);
        assert_eq!(table["columns"].as_array().expect("columns").iter().find(undescribed), None, "{}", resource.path);
    }
}
