//! Prints a configuration: every value, where it comes from, and no secret.

use std::fmt::Write as _;

use figment::{
    Figment, Metadata, Source,
    value::{Dict, Num, Value},
};

/// What is printed for a secret.
const HIDDEN: &str = "(hidden)";

/// True where the value may be secret.
pub(super) fn is_secret(key: &str) -> bool {
    const WORDS: [&str; 10] = [
        "secret",
        "password",
        "token",
        "credential",
        "access-key",
        "access_key",
        "cursor-key",
        "signing-key",
        "ssl.key",
        "jaas",
    ];
    let key = key.to_ascii_lowercase();
    // Which key it is may be seen, and helps to find the wrong one.
    !key.ends_with("access_key_id") && !key.ends_with("access-key-id") && WORDS.iter().any(|word| key.contains(word))
}

/// Where a setting comes from; `None` for the default.
pub(super) fn origin(figment: &Figment, key: &str) -> Option<String> {
    // Keys of open tables may have dots; then the nearest that is known tells.
    let mut path = key;
    loop {
        if let Some(metadata) = figment.find_metadata(path) {
            let name = source_name(metadata);
            return (name != "default").then_some(name);
        }
        path = path.rsplit_once('.')?.0;
    }
}

pub(super) fn source_name(metadata: &Metadata) -> String {
    match &metadata.source {
        Some(Source::File(path)) => path.display().to_string(),
        _ if metadata.name.contains("environment") => "environment".to_owned(),
        _ if metadata.name.contains("TOML") => "default".to_owned(),
        _ => "command line".to_owned(),
    }
}

pub(super) fn toml(figment: &Figment) -> String {
    let mut text = String::new();
    match figment.extract::<Dict>() {
        Ok(dict) => table(figment, &mut text, "", &dict),
        Err(error) => {
            let _ = writeln!(text, "# cannot be read: {error}");
        }
    }
    text
}

fn table(figment: &Figment, text: &mut String, path: &str, dict: &Dict) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let plain = |key: &str| key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let quoted = |key: &str| if plain(key) { key.to_owned() } else { format!("{key:?}") };
    for (key, item) in dict.iter().filter(|(_, item)| item.as_dict().is_none()) {
        let full = join(key);
        let shown = if is_secret(&full) { format!("{HIDDEN:?}") } else { value(item) };
        let _ = write!(text, "{} = {shown}", quoted(key));
        if let Some(origin) = origin(figment, &full) {
            let _ = write!(text, "  # {origin}");
        }
        text.push('\n');
    }
    for (key, item) in dict {
        if let Some(inner) = item.as_dict() {
            let full = join(&quoted(key));
            if !text.is_empty() {
                text.push('\n');
            }
            let _ = writeln!(text, "[{full}]");
            table(figment, text, &full, inner);
        }
    }
}

fn value(item: &Value) -> String {
    match item {
        Value::String(_, text) => format!("{:?}", directory::without_password(text)),
        Value::Char(_, letter) => format!("{:?}", letter.to_string()),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, Num::F32(number)) => number.to_string(),
        Value::Num(_, Num::F64(number)) => number.to_string(),
        Value::Num(_, number) => number.to_i128().map_or_else(String::new, |number| number.to_string()),
        Value::Array(_, items) => format!("[{}]", items.iter().map(value).collect::<Vec<_>>().join(", ")),
        Value::Empty(..) | Value::Dict(..) => "\"\"".to_owned(),
    }
}
