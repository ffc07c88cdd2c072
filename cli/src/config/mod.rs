//! The configuration: read from all its sources, checked as a whole, handed out as each crate's own settings.
//!
//! ```text
//! default.toml ◄ --config FILE or ./daybook.toml ◄ DAYBOOK__SECTION__KEY ◄ --set and other options
//!       └────────────────────────── Figment ──────────────────────────────┘
//!                                      │
//!                    check (every fault at once) ──► Config        show (origins, secrets hidden)
//! ```

mod check;
mod show;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::Path, path::PathBuf};

use bytesize::ByteSize;
use figment::{
    Figment,
    providers::{Env, Format as _, Toml},
};
use ingest::log::{EmbeddedSettings, KafkaSettings};
use jiff::SignedDuration;
use serde::Deserialize;

use crate::{
    args::ConfigArgs,
    fault::{Fault, Result},
};

/// Every setting with its default.
const DEFAULTS: &str = include_str!("../../default.toml");
/// Where a configuration file is looked for.
const DEFAULT_FILE: &str = "daybook.toml";

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    pub(crate) lake: LakeSettings,
    pub(crate) log: LogSettings,
    pub(crate) directory: DirectorySettings,
    pub(crate) collector: ingest::collector::Settings,
    pub(crate) worker: ingest::worker::Settings,
    pub(crate) aggregate: aggregate::Settings,
    pub(crate) maintain: lake::maintain::Settings,
    pub(crate) query: query::Settings,
    pub(crate) http: HttpSettings,
    pub(crate) telemetry: TelemetrySettings,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LakeSettings {
    pub(crate) url: String,
    #[serde(deserialize_with = "ingest::log::text_values")]
    options: BTreeMap<String, String>,
}

impl LakeSettings {
    /// Options by object_store's names; the environment cannot tell `-` from `_`.
    pub(crate) fn options(&self) -> Vec<(String, String)> {
        self.options.iter().map(|(key, value)| (key.replace('-', "_"), value.clone())).collect()
    }
}

impl fmt::Debug for LakeSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.options.keys().collect();
        f.debug_struct("LakeSettings").field("url", &self.url).field("options", &names).finish()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogKind {
    Embedded,
    Kafka,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LogSettings {
    pub(crate) kind: LogKind,
    dir: PathBuf,
    partitions: i32,
    append_buffer: ByteSize,
    kafka: KafkaSettings,
    /// Who writes to it besides collectors.
    pub(crate) producers: ingest::signature::Settings,
    pub(crate) avro: AvroSettings,
}

/// Where the schemas of records in Avro stand.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct AvroSettings {
    /// A registry; its URL may hold a password.
    #[serde(default)]
    pub(crate) registry: Option<String>,
    /// Schema id to file.
    pub(crate) schemas: BTreeMap<String, PathBuf>,
}

impl fmt::Debug for AvroSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registry = self.registry.as_deref().map(directory::without_password);
        f.debug_struct("AvroSettings").field("registry", &registry).field("schemas", &self.schemas).finish()
    }
}

impl LogSettings {
    pub(crate) fn embedded(&self) -> EmbeddedSettings {
        EmbeddedSettings { dir: self.dir.clone(), partitions: self.partitions, append_buffer: self.append_buffer }
    }

    pub(crate) fn kafka(&self) -> KafkaSettings {
        let mut kafka = self.kafka.clone();
        // librdkafka's properties have dots where the environment can only have `_`.
        kafka.properties = kafka.properties.into_iter().map(|(key, value)| (key.replace('-', "."), value)).collect();
        kafka
    }

    /// Name of the log in `dead_letters.topic`.
    pub(crate) fn topic(&self) -> &str {
        match self.kind {
            LogKind::Embedded => "embedded",
            LogKind::Kafka => &self.kafka.topic,
        }
    }
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DirectorySettings {
    pub(crate) url: String,
}

impl fmt::Debug for DirectorySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectorySettings").field("url", &directory::without_password(&self.url)).finish()
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct HttpSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) drain: SignedDuration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TelemetryFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TelemetrySettings {
    pub(crate) level: String,
    pub(crate) format: TelemetryFormat,
}

/// The sources of a command, not yet checked.
pub(crate) struct Sources(Figment);

impl Sources {
    /// Reads the sources in their order.
    pub(crate) fn read(args: &ConfigArgs) -> Result<Self> {
        Self::read_in(args, Path::new(DEFAULT_FILE))
    }

    fn read_in(args: &ConfigArgs, default_file: &Path) -> Result<Self> {
        let mut figment = defaults();
        let file = args.config.as_deref().or_else(|| default_file.is_file().then_some(default_file));
        if let Some(file) = file {
            if !file.is_file() {
                let fault = Fault::usage(format!("there is no configuration file `{}`", file.display()));
                return Err(fault.help("name another one with --config, or none to take the defaults"));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        // Keys are written with `-`, which the environment cannot have.
        let environment =
            Env::prefixed("DAYBOOK__").map(|key| key.as_str().replace("__", ".").replace('_', "-").into());
        figment = figment.merge(environment.split("."));
        let mut sources = Self(figment);
        for setting in &args.set {
            let Some((key, value)) = setting.split_once('=') else {
                let fault = Fault::usage(format!("--set {setting}: takes SECTION.KEY=VALUE"));
                return Err(fault.help("for example --set worker.flush-age=5s"));
            };
            let value: figment::value::Value =
                value.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
            sources.set(key.trim(), value);
        }
        Ok(sources)
    }

    /// Overrides a setting, as a command's own options do.
    pub(crate) fn set(&mut self, key: &str, value: impl serde::Serialize) {
        self.0 = std::mem::take(&mut self.0).merge((key, value));
    }

    /// The settings.
    ///
    /// # Errors
    /// With every fault.
    pub(crate) fn config(&self) -> Result<Config> {
        check::config(&self.0).map_err(|faults| {
            let number = faults.len();
            let list: Vec<String> = faults.iter().map(|fault| format!("- {fault}")).collect();
            Fault::usage(format!(
                "the configuration has {number} fault{}:\n{}",
                if number == 1 { "" } else { "s" },
                list.join("\n")
            ))
            .help("`daybook config show` prints every setting and where it comes from")
        })
    }

    /// True where the setting does not come from the defaults.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.0.find_value(key).is_ok() && show::origin(&self.0, key).is_some()
    }

    /// Every setting as TOML, secrets hidden.
    pub(crate) fn show(&self) -> String {
        show::toml(&self.0)
    }
}

fn defaults() -> Figment {
    Figment::from(Toml::string(DEFAULTS))
}
