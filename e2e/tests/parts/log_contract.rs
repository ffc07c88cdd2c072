//! The log's contract, held against a real broker.

use std::collections::BTreeMap;

use e2e::parts::Kafka;
use ingest::log::{KafkaLog, KafkaSettings, contract};

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_the_contract() {
    let kafka = Kafka::start();
    kafka.create_topic("contract", 4);
    let settings = KafkaSettings {
        bootstrap_servers: kafka.bootstrap(),
        topic: "contract".into(),
        group: "contract".into(),
        properties: BTreeMap::new(),
        ..KafkaSettings::default()
    };
    let log = KafkaLog::open(&settings).expect("the settings are sound");
    contract::check(&log).await;
}
