//! Appending: one idempotent producer, one counter per call instead of a channel per record.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::{Client, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use super::access::Access;
use super::{KafkaSettings, log_line, sort_error};
use crate::log::{Append, Error, Result};

/// How long to wait when librdkafka's queue is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(10);

pub(super) struct BatchProducer {
    producer: ThreadedProducer<Reports>,
    access: Arc<Access>,
}

/// One call of `append`.
struct Call {
    /// Records without a delivery report, plus one until all were handed over.
    open: AtomicUsize,
    failure: Mutex<Option<(KafkaError, usize)>>,
    done: Notify,
}

impl Call {
    fn settle(&self, count: usize) {
        if self.open.fetch_sub(count, Ordering::AcqRel) == count {
            self.done.notify_one();
        }
    }

    fn fail(&self, error: KafkaError, bytes: usize) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((error, bytes));
    }
}

struct Reports(Arc<Access>);

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.0.token()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(&error, reason);
        tracing::warn!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Arc<Call>;

    fn delivery(&self, result: &DeliveryResult<'_>, call: Arc<Call>) {
        if let Err((error, message)) = result {
            call.fail(error.clone(), message.payload().map_or(0, <[u8]>::len));
        }
        call.settle(1);
    }
}

impl BatchProducer {
    pub(super) fn new(settings: &KafkaSettings, access: Arc<Access>) -> Result<Self> {
        let mut config = settings.client();
        for (key, value) in [("compression.type", "lz4"), ("linger.ms", "5"), ("queue.buffering.max.kbytes", "131072")]
        {
            if !settings.properties.contains_key(key) {
                config.set(key, value);
            }
        }
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("delivery.timeout.ms", settings.delivery_timeout.as_millis().to_string());
        let producer = config.create_with_context(Reports(access.clone()));
        Ok(Self { producer: producer.map_err(|e| sort_error("make a Kafka producer", e))?, access })
    }

    pub(super) fn client(&self) -> &Client<impl ClientContext + use<>> {
        self.producer.client()
    }

    pub(super) async fn append(&self, settings: &KafkaSettings, records: Vec<Append>) -> Result<()> {
        let what = || format!("append to topic {}", settings.topic);
        let started = std::time::Instant::now();
        let call = Arc::new(Call {
            open: AtomicUsize::new(records.len() + 1),
            failure: Mutex::new(None),
            done: Notify::new(),
        });
        let deadline = tokio::time::Instant::now() + settings.delivery_timeout.unsigned_abs();
        let mut unsent = records.len();
        'records: for record in &records {
            let mut message = BaseRecord::with_opaque_to(&settings.topic, call.clone())
                .key(&record.key[..])
                .payload(&record.value[..]);
            if !record.headers.is_empty() {
                let empty = OwnedHeaders::new_with_capacity(record.headers.len());
                let headers = record
                    .headers
                    .iter()
                    .fold(empty, |headers, (key, value)| headers.insert(Header { key, value: Some(&value[..]) }));
                message = message.headers(headers);
            }
            loop {
                match self.producer.send(message) {
                    Ok(()) => break,
                    // The rest of the queue is on its way; nothing is lost by waiting.
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again))
                        if tokio::time::Instant::now() < deadline =>
                    {
                        message = again;
                        tokio::time::sleep(QUEUE_FULL_WAIT).await;
                    }
                    Err((error, _)) => {
                        call.fail(error, record.value.len());
                        break 'records;
                    }
                }
            }
            unsent -= 1;
        }
        call.settle(unsent + 1);
        // Ends: librdkafka reports every message within delivery.timeout.ms.
        while call.open.load(Ordering::Acquire) > 0 {
            call.done.notified().await;
        }
        let failure = call.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failure {
            None => {
                self.access.served();
                Ok(())
            }
            Some((error, bytes)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
                    Err(Error::TooLarge { bytes })
                }
                // A new producer is made for the next attempt.
                Some(RDKafkaErrorCode::Fatal) => Err(Error::unavailable(what(), error)),
                _ => Err(self.access.failure(what(), error, started)),
            },
        }
    }
}
