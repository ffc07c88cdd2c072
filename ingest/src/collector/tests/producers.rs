//! On a log that others write to as well.

use axum::{
    body::Body,
    http::{Request, header},
};
use directory::{OptIn, Scope};

use super::{World, now};
use crate::{
    collector::Settings,
    headers,
    log::Record,
    signature::{self, SigningKey, is_signed},
};

const EVENT: &str =
    r#"{"specversion":"1.0","id":"e1","source":"s","type":"t","time":"2026-11-23T10:00:00Z","subject":"u"}"#;
const JSON: &str = "application/cloudevents+json";

#[tokio::test]
async fn a_collector_with_the_secret_signs_what_it_appends() {
    let key = SigningKey::from("0123456789abcdef0123456789abcdef");
    let producers = signature::Settings { signing_key: Some(key.clone()), ..signature::Settings::default() };
    let world = World::beside(Settings::default(), &producers).await;
    assert_eq!(world.events(JSON, EVENT).await.status.as_u16(), 202);
    let append = world.take().remove(0);
    let record = Record {
        kafka_partition: 0,
        offset: 0,
        key: Some(append.key),
        value: Some(append.value),
        headers: append.headers,
        append_time_ms: 0,
    };
    assert_eq!(record.header(headers::KEY).map(|id| &id[..]), Some(&b"collector"[..]));
    assert_eq!(is_signed(&record, &key.mac_key()), Some(true));
    assert!(record.header(headers::RECORDED_TIME).is_some(), "the time of receipt is signed too");

    let world = World::new().await;
    world.events(JSON, EVENT).await;
    assert_eq!(world.take()[0].headers.len(), 3, "without the secret nothing is signed");
}

#[tokio::test]
async fn on_an_organisations_own_log_no_other_may_send() {
    let producers = signature::Settings { organisation: Some("beta".parse().expect("an id")), ..Default::default() };
    let world = World::beside(Settings::default(), &producers).await;
    assert_eq!(world.events(JSON, EVENT).await.problem(), (403, "other_organisation".to_owned()));
    let beta = "beta".parse().expect("an id");
    world.directory.create_org(&beta, "", "UTC", now()).await.expect("new");
    world.directory.set_opt_in(&beta, OptIn::TeamOnly, "a test", now()).await.expect("there");
    let (_, key) = world.directory.create_key(&beta, Scope::Ingest, "", now()).await.expect("new");
    let (_, produce) = world.directory.create_key(&beta, Scope::Produce, "", now()).await.expect("new");
    for (key, status) in [(key, 202), (produce, 403)] {
        let request = Request::post("/v1/events")
            .header(header::AUTHORIZATION, format!("Bearer {}", key.expose()))
            .header(header::CONTENT_TYPE, JSON);
        assert_eq!(world.send(request.body(Body::from(EVENT)).expect("a request")).await.status.as_u16(), status);
    }
    assert_eq!(world.take().len(), 1);
}
