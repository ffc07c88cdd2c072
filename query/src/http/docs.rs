//! The API described for people: one page, written from the document for programs. No script, nothing from elsewhere.

use std::{fmt::Write as _, sync::LazyLock};

use serde_json::Value;

use super::openapi;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--soft:#8882}\
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}\
h1{margin-bottom:0}h2{margin:2.5rem 0 .3rem;font-size:1.15rem}code{font:13px ui-monospace,monospace}\
h2 code{font-size:1.05rem}a{color:inherit}p{margin:.4rem 0}\
table{border-collapse:collapse;width:100%;margin:.6rem 0}\
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid var(--line)}th{background:var(--soft)}\
td:first-child{white-space:nowrap}summary{cursor:pointer;padding:.3rem 0}pre{background:var(--soft);padding:.8rem;overflow-x:auto}\
nav ul{columns:2;padding-left:1.2rem}@media(max-width:40rem){nav ul{columns:1}}";

/// The page, as HTML.
pub(super) fn page() -> &'static str {
    static PAGE: LazyLock<String> = LazyLock::new(|| write(openapi::document()));
    &PAGE
}

fn write(document: &Value) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Daybook API</title><style>{STYLE}</style></head><body>\n<h1>Daybook API</h1>\n<p>{}</p>\n\
         <p>Present a read key with every request: <code>Authorization: Bearer dbk_…</code>. For programs: <a href=\"{}\">{}</a>.</p>\n\
         <pre><code>curl -H \"Authorization: Bearer $DAYBOOK_KEY\" \"$DAYBOOK_URL/v1/rollups/daily?from=2026-01-01&amp;format=csv\"</code></pre>\n",
        escaped(&document["info"]["description"]),
        super::OPENAPI,
        super::OPENAPI,
    );
    let paths = document["paths"].as_object().expect("the document has paths");
    // Those that describe a table stand with the table.
    let shown: Vec<_> = paths.iter().filter(|(path, _)| !path.ends_with("/schema")).collect();
    page.push_str("<nav><ul>");
    for (path, operation) in &shown {
        let about = escaped(&method(operation).1["summary"]);
        put(&mut page, format_args!("<li><a href=\"#{path}\"><code>{path}</code></a><br>{about}</li>\n"));
    }
    page.push_str("</ul></nav>\n");
    for (path, operation) in shown {
        section(&mut page, document, path, operation);
    }
    page.push_str("</body></html>\n");
    page
}

fn section(page: &mut String, document: &Value, path: &str, operation: &Value) {
    let (verb, operation) = method(operation);
    let (about, more) = (escaped(&operation["summary"]), escaped(&operation["description"]));
    put(page, format_args!("<section id=\"{path}\"><h2><code>{verb} {path}</code></h2><p>{about} {more}</p>\n"));
    if let Some(parameters) = operation["parameters"].as_array() {
        page.push_str("<table><tr><th>parameter</th><th>takes</th><th></th></tr>\n");
        for parameter in parameters {
            let (name, description) = (escaped(&parameter["name"]), escaped(&parameter["description"]));
            let takes = takes(&parameter["schema"]);
            put(page, format_args!("<tr><td><code>{name}</code></td><td>{takes}</td><td>{description}</td></tr>\n"));
        }
        page.push_str("</table>\n");
    }
    let content = &operation["responses"]["200"]["content"]["application/json"]["schema"];
    let row = content["properties"]["data"]["items"]["$ref"].as_str();
    let row = row.and_then(|reference| document.pointer(reference.trim_start_matches('#')));
    if let Some(columns) = row.and_then(|row| row["properties"].as_object()) {
        put(page, format_args!("<details><summary>{} columns</summary><table>\n", columns.len()));
        for (name, column) in columns {
            let (kind, meaning) = (kind(column), escaped(&column["description"]));
            put(page, format_args!("<tr><td><code>{name}</code></td><td>{kind}</td><td>{meaning}</td></tr>\n"));
        }
        page.push_str("</table></details>\n");
    }
    page.push_str("</section>\n");
}

/// The one operation of a path.
fn method(path: &Value) -> (&'static str, &Value) {
    if path["post"].is_object() { ("POST", &path["post"]) } else { ("GET", &path["get"]) }
}

/// What a parameter takes.
fn takes(schema: &Value) -> String {
    let of = if schema["type"] == "array" { &schema["items"] } else { schema };
    let many = if schema["type"] == "array" { "a list of " } else { "" };
    let values: Vec<&str> = of["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match (values.len(), &of["format"], &of["maximum"]) {
        // They stand below.
        _ if schema["uniqueItems"] == true => "a list of columns".to_owned(),
        (1.., ..) => format!("{many}{}", values.join(", ")),
        (0, Value::String(format), _) => format!("{many}{}", if format == "date" { "YYYY-MM-DD" } else { format }),
        (0, _, Value::Number(most)) => format!("{} to {most}, by default {}", of["minimum"], of["default"]),
        _ => format!("{many}text"),
    }
}

/// Type of a column.
fn kind(column: &Value) -> String {
    let kinds = &column["type"];
    let (kind, null) = match kinds.as_array() {
        Some(kinds) => (kinds[0].as_str(), " or null"),
        None => (kinds.as_str(), ""),
    };
    let kind = column["format"].as_str().or(kind).unwrap_or_default();
    format!("{kind}{null}")
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a string takes what is written");
}

/// A text as HTML; what stands between backticks is code.
fn escaped(text: &Value) -> String {
    let text = text.as_str().unwrap_or_default();
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let parts = text.split('`').enumerate();
    parts.map(|(at, part)| if at % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }).collect()
}
