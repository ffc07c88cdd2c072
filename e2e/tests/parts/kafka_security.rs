//! TLS and SASL against a real broker: each mechanism appends and reads; a refusal is told at once, as what it is, and no secret appears in
//! what the process logs.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use e2e::parts::Kafka;
use ingest::log::{
    Append, Error, KafkaLog, KafkaSettings, Log,
    contract::{CheckedConsumer, FixedPositions},
};
use jiff::SignedDuration;

const TOPIC: &str = "secure";
const RECORDS: usize = 1_000;
/// kafka.sh gives it to `ada`.
const PASSWORD: &str = "ada-secret";
const WRONG: &str = "hunter2-wrong";
/// A refusal is known long before `request-timeout`, on a busy machine too.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Everything that is logged, at every level.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn settings(bootstrap: String, group: &str, properties: &[(&str, &str)]) -> KafkaSettings {
    KafkaSettings {
        bootstrap_servers: bootstrap,
        topic: TOPIC.into(),
        group: group.into(),
        properties: properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        delivery_timeout: SignedDuration::from_secs(10),
        request_timeout: SignedDuration::from_secs(90),
        ..KafkaSettings::default()
    }
}

/// As `ada`, by a mechanism with a password.
fn by_password(kafka: &Kafka, mechanism: &str, password: &str) -> KafkaSettings {
    let ca = kafka.certificate("ca.pem");
    let properties = [
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanism", mechanism),
        ("sasl.username", "ada"),
        ("sasl.password", password),
        ("ssl.ca.location", text(&ca)),
    ];
    settings(kafka.bootstrap_sasl(), mechanism, &properties)
}

/// By a token that lies in a file.
fn by_token(kafka: &Kafka, file: &Path, lives: SignedDuration) -> KafkaSettings {
    let now = jiff::Timestamp::now();
    let claims = format!(r#"{{"sub":"ada","iat":{},"exp":{}}}"#, now.as_second() - 60, (now + lives).as_second());
    // An unsecured token (RFC 7515, appendix A.5), which Kafka's own validator takes: `alg` none, and no signature.
    let part = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
    std::fs::write(file, format!("{}.{}.\n", part(r#"{"alg":"none"}"#), part(&claims))).expect("a writable folder");
    let ca = kafka.certificate("ca.pem");
    let properties =
        [("security.protocol", "sasl_ssl"), ("sasl.mechanism", "OAUTHBEARER"), ("ssl.ca.location", text(&ca))];
    let settings = settings(kafka.bootstrap_sasl(), "token", &properties);
    KafkaSettings { oauth_token_file: Some(file.to_owned()), ..settings }
}

/// By a client certificate.
fn by_certificate(kafka: &Kafka, ca: &str, with_key: bool) -> KafkaSettings {
    let [ca, certificate, key] = [ca, "client.pem", "client.key"].map(|name| kafka.certificate(name));
    let mut properties = vec![("security.protocol", "ssl"), ("ssl.ca.location", text(&ca))];
    if with_key {
        properties.extend([("ssl.certificate.location", text(&certificate)), ("ssl.key.location", text(&key))]);
    }
    settings(kafka.bootstrap_ssl(), "ssl", &properties)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn records(name: &str) -> Vec<Append> {
    let record = |n: usize| Append {
        key: Bytes::from(format!("key-{n}")),
        value: Bytes::from(format!("{name} {n}")),
        headers: vec![("n".into(), Bytes::from(n.to_string()))],
    };
    (0..RECORDS).map(record).collect()
}

/// Appends, and reads back what was appended.
async fn works(name: &str, settings: &KafkaSettings) {
    let log = KafkaLog::open(settings).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let mut ends = BTreeMap::new();
    for partition in log.partitions().await.unwrap_or_else(|error| panic!("{name}: {error:?}")) {
        ends.insert(partition, log.offsets(partition).await.expect("offsets").1);
    }
    log.append(records(name)).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let mut consumer = CheckedConsumer::join(&log, &FixedPositions::new(ends)).await;
    let read = consumer.read_until(|seen| seen.len() >= RECORDS).await;
    let expected: std::collections::BTreeSet<String> = (0..RECORDS).map(|n| format!("{name} {n}")).collect();
    let values =
        read.values().map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into());
    assert_eq!(values.collect::<std::collections::BTreeSet<String>>(), expected, "{name}");
    consumer.close().await;
}

/// Whatever is tried fails for good, soon, with an error that names these.
async fn refused(name: &str, settings: &KafkaSettings, told: &[&str]) {
    let log = KafkaLog::open(settings).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let check = |what: &str, error: Error, started: Instant| {
        let message = format!("{error} {error:?}");
        assert!(matches!(error, Error::Fatal { .. }), "{name}, {what}: {message}");
        assert!(started.elapsed() < AT_ONCE, "{name}, {what}: told after {:?}", started.elapsed());
        for word in told {
            assert!(message.contains(word), "{name}, {what}, `{word}`: {message}");
        }
        assert!(!message.contains(WRONG) && !message.contains(PASSWORD), "{name}, {what}: {message}");
    };
    let started = Instant::now();
    check("partitions", log.partitions().await.expect_err(name), started);
    let started = Instant::now();
    let Err(error) = log.subscribe(FixedPositions::new(BTreeMap::new())).await else { panic!("{name}: subscribed") };
    check("subscribe", error, started);
    let started = Instant::now();
    check("append", log.append(records(name)).await.expect_err(name), started);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mechanism_works_and_every_refusal_is_told() {
    let captured = Captured::default();
    let writer = captured.clone();
    // Of the log alone: other tests of this process have subscribers of their own, or none.
    let filter = tracing_subscriber::EnvFilter::new("librdkafka=trace,rdkafka=trace,ingest::log=trace");
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.clone());
    subscriber.try_init().expect("the only subscriber of this process");

    let kafka = Kafka::start_secure();
    kafka.create_topic(TOPIC, 2);
    let folder = tempfile::tempdir().expect("a folder");
    let sasl = kafka.bootstrap_sasl();

    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        works(mechanism, &by_password(&kafka, mechanism, PASSWORD)).await;
        refused(mechanism, &by_password(&kafka, mechanism, WRONG), &[mechanism, &sasl, "uthentication failed"]).await;
    }

    let token = by_token(&kafka, &folder.path().join("token"), SignedDuration::from_hours(1));
    works("a token from a file", &token).await;
    let expired = by_token(&kafka, &folder.path().join("expired"), SignedDuration::from_hours(-1));
    refused("an expired token", &expired, &["OAUTHBEARER", "oken"]).await;
    let mut unsecured = by_token(&kafka, &folder.path().join("unused"), SignedDuration::from_hours(1));
    unsecured.oauth_token_file = None;
    unsecured.properties.insert("enable.sasl.oauthbearer.unsecure.jwt".into(), "true".into());
    unsecured.properties.insert("sasl.oauthbearer.config".into(), "principal=ada".into());
    works("librdkafka's unsecured token", &unsecured).await;

    works("a client certificate", &by_certificate(&kafka, "ca.pem", true)).await;
    let ssl = kafka.bootstrap_ssl();
    refused("a broker we do not know", &by_certificate(&kafka, "stranger.pem", true), &[&ssl, "certificate"]).await;
    let mut unknown = by_password(&kafka, "PLAIN", PASSWORD);
    unknown.properties.insert("ssl.ca.location".into(), text(&kafka.certificate("stranger.pem")).into());
    refused("a broker we do not know, SASL", &unknown, &["PLAIN", &sasl, "certificate"]).await;
    without_credentials(&kafka).await;

    let logged = captured.text();
    assert!(logged.contains("uthentication failed"), "the refusals were logged: {logged}");
    for secret in [PASSWORD, WRONG, &std::fs::read_to_string(folder.path().join("token")).expect("a token")] {
        assert!(!logged.contains(secret.trim()), "a secret was logged: {logged}");
    }
}

/// What is no refusal of the broker's says at least what it may be.
async fn without_credentials(kafka: &Kafka) {
    let mut nameless = by_password(kafka, "PLAIN", PASSWORD);
    nameless.properties.remove("sasl.username");
    let Err(error) = KafkaLog::open(&nameless) else { panic!("a mechanism with a password needs a name") };
    assert!(matches!(error, Error::Fatal { .. }) && format!("{error:?}").contains("sasl.username"), "{error:?}");

    let limit = |mut settings: KafkaSettings| {
        settings.request_timeout = SignedDuration::from_secs(5);
        KafkaLog::open(&settings).expect("sound settings")
    };
    // The broker answers neither: librdkafka goes on trying.
    let plain = limit(settings(kafka.bootstrap_sasl(), "plain", &[]));
    let error = plain.partitions().await.expect_err("the broker wants TLS");
    assert!(error.is_retryable() && error.to_string().contains("security.protocol plaintext"), "{error}");
    let nobody = limit(by_certificate(kafka, "ca.pem", false));
    let error = nobody.partitions().await.expect_err("the broker wants a client certificate");
    assert!(error.to_string().contains(&kafka.bootstrap_ssl()), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}
