//! A program that writes to the topic itself, and signs as docs/producers.md says: by the very code that stands there.

use std::{process::Command, time::Duration};

use bytes::Bytes;
use e2e::{
    installed,
    parts::Kafka,
    process::{Server, create_org, query, setting, succeed, wait_for},
};
use ingest::{
    headers,
    log::{Append, KafkaLog, KafkaSettings, Log},
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

fn event(id: &str) -> String {
    json!({
        "specversion": "1.0", "id": id, "source": "urn:daybook:test", "type": "dev.daybook.prompt.submitted.v1",
        "time": jiff::Timestamp::now().to_string(), "subject": "email:a@example.org",
        "sessionid": id, "data": { "length_chars": 12 },
    })
    .to_string()
}

fn unsigned(value: &str) -> Append {
    let headers = vec![
        (headers::ORG.into(), Bytes::from_static(b"acme")),
        (headers::VANTAGE.into(), Bytes::from_static(b"service")),
    ];
    Append { key: Bytes::from_static(b"acme/email:a@example.org"), value: Bytes::from(value.to_owned()), headers }
}

/// Signed by the documented Python.
fn signed(key: &str, value: &str) -> Append {
    let documented = include_str!("../../../docs/producers.md");
    let code = documented.split_once("```python\n").and_then(|(_, rest)| rest.split_once("```")).expect("an example").0;
    let call = "\nimport json, sys\n\
                print(json.dumps(sign(sys.argv[1], b'acme', b'service', b'acme/email:a@example.org', sys.argv[2].encode())))";
    let output =
        Command::new(installed("DAYBOOK_E2E_PYTHON")).args(["-c", &format!("{code}{call}"), key, value]).output();
    let output = output.expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let Value::Object(headers) = serde_json::from_slice(&output.stdout).expect("JSON") else { panic!("headers") };
    let mut record = unsigned(value);
    for (name, value) in headers {
        record.headers.push((name.into(), Bytes::from(value.as_str().expect("a text").to_owned())));
    }
    record
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_records_count_and_others_become_dead_letters() {
    let kafka = Kafka::start();
    kafka.create_topic("direct", 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path().display();
    let environment = [
        setting("lake.url", format!("{at}/lake")),
        setting("directory.url", format!("sqlite://{at}/directory.db")),
        setting("log.kind", "kafka"),
        setting("log.kafka.topic", "direct"),
        setting("log.kafka.bootstrap-servers", kafka.bootstrap()),
        setting("log.producers.signatures", "required"),
        setting("log.producers.signing-key", "a secret that collectors and workers share"),
    ];
    create_org("acme", &[], &environment);
    let create = |scope: &str| {
        let key = succeed(&["key", "create", "--org", "acme", "--scope", scope], &environment);
        key.trim().to_owned()
    };
    let (ingest, produce) = (create("ingest"), create("produce"));
    let listen = format!("127.0.0.1:{}", e2e::free_port());
    let arguments = ["serve", "--role", "collector", "--role", "worker", "--listen", &listen];
    let mut server = Server::start(&arguments, &environment, &folder.path().join("serve.log"));
    server.ready(&format!("http://{listen}/readyz")).await;

    let post = async |key: &str| {
        let url = format!("http://{listen}/v1/events");
        let request = Client::new().post(url).bearer_auth(key).header("content-type", "application/cloudevents+json");
        request.body(event("collected")).send().await.expect("an answer").status()
    };
    assert_eq!(post(&produce).await, StatusCode::FORBIDDEN, "a key that signs is good for nothing else");
    assert_eq!(post(&ingest).await, StatusCode::ACCEPTED);

    let log = KafkaLog::open(&KafkaSettings {
        bootstrap_servers: kafka.bootstrap(),
        topic: "direct".into(),
        ..KafkaSettings::default()
    })
    .expect("the settings are sound");
    let good = signed(&produce, &event("direct"));
    let tampered = Append { value: event("tampered").into(), ..good.clone() };
    let by_ingest_key = signed(&ingest, &event("ingest"));
    log.append(vec![tampered, unsigned(&event("bare")), by_ingest_key, good]).await.expect("the log takes them");
    let key_id = produce.split('_').nth(1).expect("its id");
    let _ = succeed(&["key", "revoke", key_id], &environment);
    log.append(vec![signed(&produce, &event("revoked a moment ago"))]).await.expect("the log takes it");

    let sql = "SELECT session_id FROM events ORDER BY log_offset";
    wait_for("what is signed is in the table", Duration::from_secs(60), async || {
        query(sql, &environment).as_array().is_some_and(|rows| rows.len() == 3)
    })
    .await;
    let stored: Vec<Value> =
        ["collected", "direct", "revoked a moment ago"].iter().map(|id| json!({"session_id": id})).collect();
    assert_eq!(query(sql, &environment), Value::from(stored));
    let letters = query("SELECT cause, field, org_id FROM dead_letters ORDER BY log_offset", &environment);
    let letter = |field: &str| json!({"cause": "signature", "field": field, "org_id": null});
    let wanted = [headers::SIGNATURE, headers::KEY, headers::KEY].map(letter);
    assert_eq!(letters, Value::from(wanted.to_vec()));
    assert_eq!(server.terminate(), 0);
}
