//! The topic's id, without which a recreated topic would be taken for the old one (F24).
//!
//! librdkafka knows topic ids, but the safe API of rdkafka 0.39 has no call for them (`DescribeTopics` is bound in rdkafka-sys alone, which
//! takes `unsafe`). What it does say, when asked for `debug=topic`, is one line at the first metadata of a topic
//! (`rd_kafka_topic_metadata_update`):
//!
//! ```text
//! Topic events changed id from AAAAAAAAAAAAAAAAAAAAAA to 8IMmGWoGTU2fB1kxG5PnYQ
//! ```
//!
//! So a short-lived client is asked for the metadata and its log is read. The form of the line is pinned with librdkafka's version and held
//! by tests against the mock cluster and the real broker. No line means no id, and that is an error, never a fallback: an identity that
//! changes by itself would have every event ingested again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;

use super::access::Access;
use super::{KafkaSettings, sort_error};
use crate::log::{Error, Result};

const TOKEN_POLL: Duration = Duration::from_millis(100);

struct Listener {
    topic: String,
    id: Mutex<Option<String>>,
    access: Arc<Access>,
}

impl ClientContext for Listener {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.access.token()
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        if let Some(id) = id_in(message, &self.topic) {
            *self.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.access.note(&error, reason);
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Listener {}

/// The id in a line of librdkafka's log, in the URL-safe form that Kafka's own tools print.
fn id_in(line: &str, topic: &str) -> Option<String> {
    let rest = line.split_once("Topic ")?.1.strip_prefix(topic)?.strip_prefix(" changed id from ")?;
    let id = rest.split_once(" to ")?.1.trim();
    let id = id.replace('+', "-").replace('/', "_");
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (id.len() == 22 && id.chars().all(plain)).then_some(id)
}

/// `<cluster id>/<topic id>`. Blocks.
pub(super) fn fetch_identity(settings: &KafkaSettings, access: &Arc<Access>) -> Result<String> {
    let what = || format!("read the id of topic {}", settings.topic);
    let deadline = Instant::now() + settings.request_limit();
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let listener = Listener { topic: settings.topic.clone(), id: Mutex::new(None), access: access.clone() };
    // No group: this consumer never joins and its queue carries the log.
    let client: BaseConsumer<Listener> = settings
        .client()
        .set("debug", "topic")
        .set_log_level(RDKafkaLogLevel::Debug)
        .create_with_context(listener)
        .map_err(|e| sort_error(what(), e))?;
    if access.gives_tokens() {
        // Nobody else serves the question for a token, without which there is no connection.
        let _ = client.poll(TOKEN_POLL);
    }
    let listen = || while client.poll(Duration::from_millis(20)).is_some() {};
    let fetch = |limit| client.fetch_metadata(Some(&settings.topic), limit);
    let metadata = access.request(what, left(), listen, fetch)?;
    let cluster = client.client().fetch_cluster_id(left()).filter(|id| !id.is_empty()).ok_or_else(|| {
        Error::Unavailable { what: format!("read the cluster id from {}", settings.bootstrap_servers), source: None }
    })?;
    let topic = metadata.topics().iter().find(|topic| topic.name() == settings.topic);
    if let Some(error) = topic.and_then(|topic| topic.error()) {
        return Err(sort_error(what(), KafkaError::MetadataFetch(error.into())));
    }
    // The line was queued before the metadata were answered; an empty queue means that there is none.
    let patience = Instant::now() + Duration::from_secs(2);
    loop {
        let _ = client.poll(Duration::from_millis(20));
        if let Some(id) = client.context().id.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Ok(format!("{cluster}/{id}"));
        }
        if Instant::now() > patience.min(deadline) {
            let what = format!("{}: the broker gave none (Kafka before 2.8?)", what());
            return Err(Error::Fatal { what, source: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_topic_is_understood() {
        let check = |line: &str, expected: Option<&str>| assert_eq!(id_in(line, "a.b").as_deref(), expected, "{line}");
        check(
            "[thrd:main]: Topic a.b changed id from AAAAAAAAAAAAAAAAAAAAAA to 8IMmGWoGTU2fB1kxG5PnYQ",
            Some("8IMmGWoGTU2fB1kxG5PnYQ"),
        );
        check(
            "Topic a.b changed id from AAAAAAAAAAAAAAAAAAAAAA to +/MmGWoGTU2fB1kxG5PnYQ",
            Some("-_MmGWoGTU2fB1kxG5PnYQ"),
        );
        check("Topic a.bc changed id from AAAAAAAAAAAAAAAAAAAAAA to 8IMmGWoGTU2fB1kxG5PnYQ", None);
        check("Topic a.b changed id from AAAAAAAAAAAAAAAAAAAAAA to ?", None);
        check("Topic a.b partition count changed from 0 to 4", None);
    }
}
