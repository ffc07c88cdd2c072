//! The log on Apache Kafka (2.8 or later: it must know topic ids), by librdkafka.
//!
//! ```text
//! append ─► one producer (acks=all, idempotent, murmur2) ─► delivery reports counted per call ─► answer
//! subscribe ─► a thread of its own that polls (`poller.rs`) ─► batches, limited in bytes and records ─► next
//! ```
//!
//! Settings that carry our promises cannot be overridden: see [`PROTECTED`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytesize::ByteSize;
use jiff::SignedDuration;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::access::Access;
use self::producer::BatchProducer;
use super::{Append, Consumer, Error, Log, Positions, Result};

mod access;
mod consumer;
mod flow;
mod membership;
mod poller;
mod producer;
#[cfg(test)]
mod tests;
mod topic_id;
mod watchdog;

/// Properties of librdkafka that our promises rest on. `properties` must not name them.
pub const PROTECTED: [&str; 15] = [
    "bootstrap.servers",
    "group.id",
    "acks",
    "request.required.acks",
    "enable.idempotence",
    "partitioner",
    "partition.assignment.strategy",
    "group.protocol",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "enable.partition.eof",
    "statistics.interval.ms",
    "debug",
];

/// How to reach Kafka.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct KafkaSettings {
    /// `host:port`, comma separated.
    pub bootstrap_servers: String,
    /// The topic; it must exist (see [`KafkaLog::ensure_topic`]).
    pub topic: String,
    /// Consumer group of the workers.
    pub group: String,
    /// Further properties for librdkafka, e.g. `security.protocol`, `sasl.password`. Values that may be secret are never shown.
    #[serde(serialize_with = "show_properties", deserialize_with = "text_values")]
    pub properties: BTreeMap<String, String>,
    /// For `sasl.mechanism = "OAUTHBEARER"`: a file with the bearer token (a JSON Web Token with `exp`), kept fresh by somebody else, for
    /// example Kubernetes. It is read anew before the token it held expires. `None` = librdkafka's own ways.
    pub oauth_token_file: Option<PathBuf>,
    /// Records fetched for one consumer and not yet taken by `next`, in bytes. librdkafka prefetches up to as much again.
    pub buffer: ByteSize,
    /// The same limit, in records.
    pub buffer_records: usize,
    /// Most records in one [`super::Event::Records`].
    pub batch_records: usize,
    /// Limit for metadata and offset requests.
    pub request_timeout: SignedDuration,
    /// An append that was not acknowledged within this time fails.
    pub delivery_timeout: SignedDuration,
    /// A partition that has records, and room for them, but brings none for this long is started anew; after three times in vain, the
    /// subscription is.
    pub stall_after: SignedDuration,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".into(),
            topic: "daybook-events".into(),
            group: "daybook-worker".into(),
            properties: BTreeMap::new(),
            oauth_token_file: None,
            buffer: ByteSize::mib(8),
            buffer_records: 262_144,
            batch_records: 8192,
            request_timeout: SignedDuration::from_secs(15),
            delivery_timeout: SignedDuration::from_secs(20),
            stall_after: SignedDuration::from_secs(60),
        }
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("properties", &shown(&self.properties))
            .field("oauth_token_file", &self.oauth_token_file)
            .field("buffer", &self.buffer)
            .field("buffer_records", &self.buffer_records)
            .field("batch_records", &self.batch_records)
            .field("request_timeout", &self.request_timeout)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("stall_after", &self.stall_after)
            .finish()
    }
}

/// Properties with everything hidden that may be secret: an unknown property is not shown unless its name is harmless.
fn shown(properties: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    const SECRET: [&str; 9] =
        ["password", "secret", "token", "credential", "pem", "ssl.key", "jaas", "oauthbearer", "plugin"];
    let show = |key: &str| !SECRET.iter().any(|word| key.contains(word));
    properties.iter().map(|(key, value)| (key.as_str(), if show(key) { value.as_str() } else { "(hidden)" })).collect()
}

/// Reads a table of somebody else's settings: numbers and booleans stand for their text, as everywhere in configuration files.
///
/// # Errors
/// Where a value is anything else.
pub fn text_values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text, a number or a boolean is needed")]
    enum Scalar {
        Text(String),
        Bool(bool),
        Int(i64),
        Float(f64),
    }
    let table = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
    let text = |value| match value {
        Scalar::Text(text) => text,
        Scalar::Bool(value) => value.to_string(),
        Scalar::Int(value) => value.to_string(),
        Scalar::Float(value) => value.to_string(),
    };
    Ok(table.into_iter().map(|(key, value)| (key, text(value))).collect())
}

fn show_properties<S: Serializer>(properties: &BTreeMap<String, String>, serializer: S) -> Result<S::Ok, S::Error> {
    shown(properties).serialize(serializer)
}

impl KafkaSettings {
    /// Every fault of the settings.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, value) in
            [("bootstrap-servers", &self.bootstrap_servers), ("topic", &self.topic), ("group", &self.group)]
        {
            if value.trim().is_empty() {
                faults.push(format!("{name} is empty"));
            }
        }
        for key in self.properties.keys().filter(|key| PROTECTED.contains(&key.as_str())) {
            faults.push(format!("properties must not set {key}: exactly-once rests on it"));
        }
        if self.buffer < ByteSize::mib(1) {
            faults.push("buffer must be at least 1MiB".into());
        }
        if self.buffer_records == 0 || self.batch_records == 0 {
            faults.push("buffer-records and batch-records must be at least 1".into());
        }
        let limits = [
            ("request-timeout", self.request_timeout),
            ("delivery-timeout", self.delivery_timeout),
            ("stall-after", self.stall_after),
        ];
        for (name, limit) in limits {
            if limit < SignedDuration::from_secs(1) {
                faults.push(format!("{name} must be at least 1s"));
            }
        }
        let property = |key: &str| self.properties.get(key).map_or("", String::as_str);
        if property("sasl.oauthbearer.method").eq_ignore_ascii_case("oidc") {
            faults.push(
                "properties: sasl.oauthbearer.method = oidc is not built in (it needs libcurl); let something else fetch the token, and name \
                 its file by oauth-token-file"
                    .into(),
            );
        }
        if self.oauth_token_file.is_some() && property("enable.sasl.oauthbearer.unsecure.jwt") == "true" {
            faults.push(
                "oauth-token-file and properties: enable.sasl.oauthbearer.unsecure.jwt exclude each other".into(),
            );
        }
        faults
    }

    /// What producer, consumer and admin client have in common.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "daybook");
        config.extend(self.properties.clone());
        config.set("bootstrap.servers", &self.bootstrap_servers);
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    fn request_limit(&self) -> Duration {
        self.request_timeout.unsigned_abs()
    }
}

/// Where librdkafka logs to; its own `log` door is closed in our binary.
pub(super) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Notice => tracing::info!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// Sorts an error of Kafka by what the caller does about it.
fn sort_error(what: impl Into<String>, error: KafkaError) -> Error {
    use RDKafkaErrorCode as Code;
    let permanent = match error.rdkafka_error_code() {
        Some(code) => matches!(
            code,
            Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::UnsupportedVersion
                | Code::UnsupportedFeature
                | Code::InvalidConfig
                | Code::InvalidArgument
                | Code::InvalidTopic
                | Code::PolicyViolation
                | Code::Fatal
        ),
        None => matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) | KafkaError::Nul(_)),
    };
    if permanent { Error::fatal(what, error) } else { Error::unavailable(what, error) }
}

/// A topic of Apache Kafka.
pub struct KafkaLog {
    settings: Arc<KafkaSettings>,
    access: Arc<Access>,
    producer: Mutex<Arc<BatchProducer>>,
    /// Cluster id and topic id, once known.
    identity: tokio::sync::OnceCell<String>,
}

impl KafkaLog {
    /// Makes the client; connects in the background.
    ///
    /// # Errors
    /// [`Error::Settings`] with every fault, [`Error::Fatal`] when librdkafka refuses a property.
    pub fn open(settings: &KafkaSettings) -> Result<Self> {
        let faults = settings.faults();
        if !faults.is_empty() {
            return Err(Error::Settings(faults));
        }
        let access = Arc::new(Access::new(settings));
        let producer = Mutex::new(Arc::new(BatchProducer::new(settings, access.clone())?));
        Ok(Self { settings: Arc::new(settings.clone()), access, producer, identity: tokio::sync::OnceCell::new() })
    }

    /// Creates the topic if it does not exist, and waits until it can be used.
    ///
    /// # Errors
    /// [`Error::Fatal`] without the permission to create it, [`Error::Unavailable`] when Kafka cannot be reached, and where tokens come from
    /// `oauth-token-file`: the client that creates topics cannot be given one.
    pub async fn ensure_topic(&self, partitions: i32, replication: i32) -> Result<()> {
        match self.partitions().await {
            Ok(_) => return Ok(()),
            Err(error) if !error.is_retryable() => return Err(error),
            Err(_) => {}
        }
        let what = || format!("create topic {}", self.settings.topic);
        let admin: AdminClient<DefaultClientContext> =
            self.settings.client().create().map_err(|e| sort_error(what(), e))?;
        let topic = NewTopic::new(&self.settings.topic, partitions, TopicReplication::Fixed(replication));
        let options = AdminOptions::new().request_timeout(Some(self.settings.request_limit()));
        let results = admin.create_topics([&topic], &options).await.map_err(|e| sort_error(what(), e))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(sort_error(what(), KafkaError::Global(code))),
            }
        }
        // The answer may come before every broker knows the topic.
        let started = tokio::time::Instant::now();
        loop {
            match self.partitions().await {
                Ok(_) => return Ok(()),
                Err(error) if !error.is_retryable() || started.elapsed() > self.settings.request_limit() => {
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn producer(&self) -> Arc<BatchProducer> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An idempotent producer that met a fatal error stays so for ever; the next append gets a new one.
    fn replace_producer(&self, broken: &Arc<BatchProducer>) -> Result<()> {
        let mut current = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, broken) {
            *current = Arc::new(BatchProducer::new(&self.settings, self.access.clone())?);
        }
        Ok(())
    }

    /// Runs a blocking call of librdkafka.
    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&BatchProducer, &KafkaSettings, &Arc<Access>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (producer, settings, access) = (self.producer(), self.settings.clone(), self.access.clone());
        let task = tokio::task::spawn_blocking(move || run(&producer, &settings, &access));
        task.await.map_err(|e| Error::fatal("run a task of the log", e))?
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn identity(&self) -> Result<String> {
        let fetch = || self.blocking(|_, settings, access| topic_id::fetch_identity(settings, access));
        self.identity.get_or_try_init(fetch).await.cloned()
    }

    async fn partitions(&self) -> Result<Vec<i32>> {
        self.blocking(|producer, settings, access| {
            let what = || format!("read the partitions of topic {}", settings.topic);
            let fetch = |limit| producer.client().fetch_metadata(Some(&settings.topic), limit);
            let metadata = access.request(what, settings.request_limit(), || {}, fetch)?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == settings.topic);
            let error = topic.and_then(|topic| topic.error());
            if let Some(error) = error {
                return Err(sort_error(what(), KafkaError::MetadataFetch(error.into())));
            }
            let mut partitions: Vec<i32> = topic.into_iter().flat_map(|t| t.partitions()).map(|p| p.id()).collect();
            if partitions.is_empty() {
                return Err(Error::Unavailable { what: format!("{}: it does not exist", what()), source: None });
            }
            partitions.sort_unstable();
            Ok(partitions)
        })
        .await
    }

    async fn append(&self, records: Vec<Append>) -> Result<()> {
        let producer = self.producer();
        let result = producer.append(&self.settings, records).await;
        if result.is_err() && producer.client().fatal_error().is_some() {
            self.replace_producer(&producer)?;
        }
        result
    }

    async fn offsets(&self, kafka_partition: i32) -> Result<(i64, i64)> {
        self.blocking(move |producer, settings, access| {
            let what = || format!("read the offsets of {}/{kafka_partition}", settings.topic);
            let fetch = |limit| producer.client().fetch_watermarks(&settings.topic, kafka_partition, limit);
            access.request(what, settings.request_limit(), || {}, fetch)
        })
        .await
    }

    async fn subscribe(&self, positions: Arc<dyn Positions>) -> Result<Box<dyn Consumer>> {
        let identity = self.identity().await?;
        let (settings, access) = (self.settings.clone(), self.access.clone());
        Ok(Box::new(consumer::KafkaConsumer::start(settings, access, identity, positions)?))
    }

    async fn truncate(&self, _: i32, _: i64) -> Result<()> {
        Ok(())
    }
}
