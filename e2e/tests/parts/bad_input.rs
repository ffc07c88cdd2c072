//! Bad input, at the collector's door and past it: each kind has its outcome, and the partition moves on.

use std::time::Duration;

use bytes::Bytes;
use e2e::{
    parts::Kafka,
    process::{Server, create_org, query, setting, succeed, wait_for},
};
use ingest::{
    headers,
    log::{Append, KafkaLog, KafkaSettings, Log},
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "urn:daybook:kiro:ide:7", "type": "dev.daybook.prompt.submitted.v1",
        "time": jiff::Timestamp::now().to_string(), "subject": "email:a@example.org", "product": "kiro", "clienttype": "ide",
        "sessionid": "s1", "data": { "length_chars": 12 },
    })
}

fn with(id: &str, field: &str, value: Value) -> Value {
    let mut event = event(id);
    event[field] = value;
    event
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_has_an_outcome_and_the_partition_moves_on() {
    let kafka = Kafka::start();
    kafka.create_topic("bad", 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path().display();
    let environment = [
        setting("lake.url", format!("{at}/lake")),
        setting("directory.url", format!("sqlite://{at}/directory.db")),
        setting("log.kind", "kafka"),
        setting("log.kafka.topic", "bad"),
        setting("log.kafka.bootstrap-servers", kafka.bootstrap()),
    ];
    create_org("acme", &[], &environment);
    let key = succeed(&["key", "create", "--org", "acme"], &environment);
    let listen = format!("127.0.0.1:{}", e2e::free_port());
    let arguments = ["serve", "--role", "collector", "--role", "worker", "--listen", &listen];
    let mut server = Server::start(&arguments, &environment, &folder.path().join("serve.log"));
    server.ready(&format!("http://{listen}/readyz")).await;

    at_the_door(&format!("http://{listen}/v1/events"), key.trim()).await;

    // Past the door: what another producer may have put on the topic, bad ones between good ones.
    let log = KafkaLog::open(&KafkaSettings {
        bootstrap_servers: kafka.bootstrap(),
        topic: "bad".into(),
        ..KafkaSettings::default()
    })
    .expect("the settings are sound");
    let whole = event("x").to_string().into_bytes();
    let bad_utf8: Vec<u8> = whole.iter().map(|byte| if *byte == b'k' { 0xff } else { *byte }).collect();
    let mut missing = event("x");
    missing.as_object_mut().expect("an object").remove("id");
    let past = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 400);
    let records: Vec<(&str, Vec<u8>)> = vec![
        ("", event("good-1").to_string().into()),
        ("not_json", whole[..whole.len() - 9].into()),
        ("not_utf8", bad_utf8),
        ("wrong_type", with("x", "time", json!(17)).to_string().into()),
        ("missing_attribute", missing.to_string().into()),
        ("future_time", with("x", "time", json!(past.to_string())).to_string().into()),
        ("too_large", with("x", "more", json!("x".repeat(700_000))).to_string().into()),
        ("", with("good-2", "type", json!("com.example.something.new.v7")).to_string().into()),
        ("", event("good-3").to_string().into()),
    ];
    let (_, before) = log.offsets(0).await.expect("the broker serves");
    for (_, value) in &records {
        let headers = vec![
            (headers::ORG.into(), Bytes::from_static(b"acme")),
            (headers::RECORDED_TIME.into(), Bytes::from(jiff::Timestamp::now().to_string())),
            (headers::VANTAGE.into(), Bytes::from_static(b"client")),
        ];
        let record = Append { key: Bytes::from_static(b"acme/a"), value: Bytes::from(value.clone()), headers };
        log.append(vec![record]).await.expect("the log takes it");
    }
    let stored = "SELECT event_type, count(*) AS n FROM events WHERE log_offset >= BEFORE GROUP BY 1 ORDER BY 1";
    let stored = stored.replace("BEFORE", &before.to_string());
    wait_for("the last good record", Duration::from_secs(60), async || {
        let rows = query(&stored, &environment);
        rows.as_array().is_some_and(|rows| rows.iter().map(|row| row["n"].as_i64().unwrap_or(0)).sum::<i64>() == 3)
    })
    .await;
    assert_eq!(
        query(&stored, &environment),
        json!([{"event_type": "com.example.something.new.v7", "n": 1}, {"event_type": "dev.daybook.prompt.submitted.v1", "n": 2}]),
        "an unknown type is kept"
    );
    let letters = "SELECT cause, topic, log_partition, log_offset, value_bytes FROM dead_letters ORDER BY log_offset";
    let wanted: Vec<Value> = records
        .iter()
        .enumerate()
        .filter(|(_, (cause, _))| !cause.is_empty())
        .map(|(index, (cause, value))| {
            json!({
                "cause": cause, "topic": "bad", "log_partition": 0, "log_offset": before + index as i64,
                "value_bytes": value.len(),
            })
        })
        .collect();
    assert_eq!(query(letters, &environment), Value::from(wanted));
    assert_eq!(server.terminate(), 0);
}

async fn at_the_door(url: &str, key: &str) {
    let send = async |content_type: &str, body: Vec<u8>, key: &str| {
        let request = Client::new().post(url).bearer_auth(key).header("content-type", content_type).body(body);
        let response = request.send().await.expect("the collector answers");
        let (status, problem) = (response.status(), response.text().await.expect("text"));
        (status, serde_json::from_str::<Value>(&problem).unwrap_or_default())
    };
    let (one, many) = ("application/cloudevents+json", "application/cloudevents-batch+json");
    let whole = event("d").to_string();
    let (status, _) = send(one, whole.clone().into(), key).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(send(one, whole.clone().into(), "dbk_wrong").await.0, StatusCode::UNAUTHORIZED);
    let (status, problem) = send(one, whole[..40].into(), key).await;
    assert_eq!((status, &problem["status"]), (StatusCode::BAD_REQUEST, &json!(400)), "{problem}");
    assert_eq!(send(one, vec![b' '; 5 << 20], key).await.0, StatusCode::PAYLOAD_TOO_LARGE, "5 MB body");
    // One bad event of three: the answer names its index and its field.
    let batch = json!([event("e"), with("f", "time", json!("soon")), event("g")]);
    let (status, problem) = send(many, batch.to_string().into(), key).await;
    assert_eq!((status, &problem["accepted"]), (StatusCode::ACCEPTED, &json!(2)), "{problem}");
    let refused = &problem["rejected"];
    assert_eq!(refused.as_array().map(Vec::len), Some(1), "{problem}");
    assert_eq!(
        (&refused[0]["index"], &refused[0]["field"], &refused[0]["cause"]),
        (&json!(1), &json!("time"), &json!("wrong_type"))
    );
}
