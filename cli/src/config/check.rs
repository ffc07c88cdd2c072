//! Finds every fault of a configuration, not only the first.
//!
//! serde stops at the first fault. So each value that is not a default is laid over the defaults by itself and read as
//! its section: what then fails is the fault of this value.

use std::{fmt, path::PathBuf};

use figment::{
    Figment,
    value::{Dict, Value},
};
use ingest::log::KafkaSettings;
use serde::de::DeserializeOwned;

use super::{
    Config, DirectorySettings, HttpSettings, LakeSettings, LogKind, LogSettings, TelemetrySettings, defaults, show,
};

/// Settings that have no default, and so do not stand in `default.toml`.
const WITHOUT_DEFAULT: &[&str] = &[
    "log.avro.registry",
    "log.kafka.oauth-token-file",
    "log.producers.organisation",
    "log.producers.signing-key",
    "query.cursor-key",
    "query.flight-listen",
    "query.pg-listen",
    "query.tls-certificate-file",
    "query.tls-key-file",
];
/// Tables whose keys are somebody else's.
const OPEN: &[&str] = &["lake.options", "log.avro.schemas", "log.kafka.properties"];

/// One fault: the setting, where it was set, what is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SettingFault {
    pub(super) key: String,
    pub(super) origin: Option<String>,
    pub(super) problem: String,
}

impl fmt::Display for SettingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, origin, problem } = self;
        match origin {
            Some(origin) => write!(f, "{key} ({origin}): {problem}"),
            None => write!(f, "{key}: {problem}"),
        }
    }
}

/// A value and the keys that lead to it.
pub(super) struct Leaf {
    pub(super) path: Vec<String>,
    pub(super) value: Value,
}

impl Leaf {
    pub(super) fn key(&self) -> String {
        self.path.join(".")
    }

    /// The open table that this is in.
    fn open(&self) -> Option<&'static str> {
        OPEN.iter().copied().find(|open| self.key().starts_with(&format!("{open}.")))
    }
}

/// All values, in no particular order.
pub(super) fn leaves(figment: &Figment) -> Result<Vec<Leaf>, Box<figment::Error>> {
    fn walk(path: &[String], dict: Dict, into: &mut Vec<Leaf>) {
        for (key, value) in dict {
            let path = [path, &[key]].concat();
            match value {
                Value::Dict(_, dict) => walk(&path, dict, into),
                value => into.push(Leaf { path, value }),
            }
        }
    }
    let mut found = Vec::new();
    walk(&[], figment.extract::<Dict>()?, &mut found);
    Ok(found)
}

pub(super) fn config(figment: &Figment) -> Result<Config, Vec<SettingFault>> {
    // A file that is no TOML, or an environment variable that is both a value and a section.
    let whole = |error: figment::Error| SettingFault {
        key: error.path.join("."),
        origin: error.metadata.as_ref().map(show::source_name),
        problem: error.kind.to_string(),
    };
    let set = leaves(figment).map_err(|error| error.into_iter().map(whole).collect::<Vec<_>>())?;
    let known: Vec<String> = leaves(&defaults()).expect("the defaults are valid").iter().map(Leaf::key).collect();
    let mut faults: Vec<SettingFault> = set
        .iter()
        .filter_map(|leaf| {
            let origin = show::origin(figment, &leaf.key())?;
            let problem = problem(leaf, &known)?;
            Some(SettingFault { key: leaf.key(), origin: Some(origin), problem })
        })
        .collect();
    if faults.is_empty() {
        match figment.extract::<Config>() {
            Ok(config) => {
                faults = semantic(&config, figment);
                if faults.is_empty() {
                    return Ok(config);
                }
            }
            Err(error) => faults.extend(error.into_iter().map(whole)),
        }
    }
    faults.sort_by(|a, b| a.key.cmp(&b.key));
    Err(faults)
}

/// What is wrong with one value by itself.
fn problem(leaf: &Leaf, known: &[String]) -> Option<String> {
    let key = leaf.key();
    if leaf.open().is_some() {
        let text = matches!(leaf.value, Value::String(..) | Value::Num(..) | Value::Bool(..));
        return (!text).then(|| "takes a text".to_owned());
    }
    if !known.contains(&key) && !WITHOUT_DEFAULT.contains(&key.as_str()) {
        let nearest = known.iter().map(|known| (distance(known, &key), known)).min();
        return Some(match nearest {
            Some((distance, nearest)) if distance <= 3 => {
                format!("there is no such setting; did you mean `{nearest}`?")
            }
            _ => "there is no such setting".to_owned(),
        });
    }
    let probe = defaults().merge((key.as_str(), &leaf.value));
    let section = leaf.path.first().map_or("", String::as_str);
    fn read<T: DeserializeOwned>(probe: &Figment, section: &str) -> Option<figment::Error> {
        probe.extract_inner::<T>(section).err()
    }
    let error = match section {
        "lake" => read::<LakeSettings>(&probe, section),
        "log" if key.starts_with("log.kafka.") => read::<KafkaSettings>(&probe, "log.kafka"),
        "log" => read::<LogSettings>(&probe, section),
        "directory" => read::<DirectorySettings>(&probe, section),
        "collector" => read::<ingest::collector::Settings>(&probe, section),
        "worker" => read::<ingest::worker::Settings>(&probe, section),
        "aggregate" => read::<aggregate::Settings>(&probe, section),
        "maintain" => read::<lake::maintain::Settings>(&probe, section),
        "query" => read::<query::Settings>(&probe, section),
        "http" => read::<HttpSettings>(&probe, section),
        _ => read::<TelemetrySettings>(&probe, section),
    }?;
    let secret = show::is_secret(&key);
    Some(if secret { "does not have the right form".to_owned() } else { error.kind.to_string() })
}

/// What is wrong with values that have the right form.
fn semantic(config: &Config, figment: &Figment) -> Vec<SettingFault> {
    let mut faults = Vec::new();
    let mut add = |key: &str, problem: String| {
        faults.push(SettingFault { key: key.to_owned(), origin: show::origin(figment, key), problem });
    };
    // A crate names the setting at the beginning of the fault.
    let split = |section: &str, fault: &str| {
        let (name, problem) = fault.split_once([' ', ':']).unwrap_or((fault, ""));
        (format!("{section}.{name}"), problem.trim().to_owned())
    };
    let log = match config.log.kind {
        LogKind::Embedded => config.log.embedded().faults().iter().map(|fault| split("log", fault)).collect(),
        LogKind::Kafka => config.log.kafka().faults().iter().map(|fault| split("log.kafka", fault)).collect::<Vec<_>>(),
    };
    for (key, problem) in log {
        add(&key, problem);
    }
    for (name, problem) in config.log.producers.faults() {
        add(&format!("log.producers.{name}"), problem.to_owned());
    }
    for fault in config.maintain.faults() {
        let (key, problem) = split("maintain", &fault);
        add(&key, problem);
    }
    for fault in config.query.faults() {
        match fault {
            query::Error::Setting { name, problem } => add(&format!("query.{name}"), problem.to_owned()),
            other => add("query", other.to_string()),
        }
    }
    for fault in config.collector.faults() {
        match fault {
            ingest::collector::Error::Setting { name, problem } => {
                add(&format!("collector.{name}"), problem.to_owned())
            }
            other => add("collector", other.to_string()),
        }
    }
    for fault in config.aggregate.faults() {
        match fault {
            aggregate::Error::Setting { setting, detail } => add(&format!("aggregate.{setting}"), detail.to_owned()),
            other => add("aggregate", other.to_string()),
        }
    }
    if config.lake.url.trim().is_empty() {
        add("lake.url", "is empty; it takes a directory or a URL such as s3://bucket/prefix".to_owned());
    }
    if config.http.drain.is_negative() {
        add("http.drain", "must not be negative".to_owned());
    }
    if let Err(error) = crate::telemetry::filter(&config.telemetry.level) {
        add("telemetry.level", error.to_string());
    }
    if config.log.kind == LogKind::Embedded && config.log.embedded().dir == PathBuf::new() {
        add("log.dir", "is empty".to_owned());
    }
    faults
}

/// Levenshtein distance; settings' names are short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
