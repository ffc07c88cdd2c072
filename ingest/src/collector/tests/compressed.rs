//! Compressed bodies: whatever a decompressor makes of them, nothing is taken in part, and nothing takes more than its share.

use std::time::{Duration, Instant};

use axum::{body::Body, http::header};
use bytesize::ByteSize;

use super::{Answer, World, chunked, gzipped, zstd};
use crate::collector::Settings;

const EVENT: &[u8] =
    br#"{"specversion":"1.0","id":"e1","source":"s","type":"t","time":"2026-11-23T10:00:00Z","subject":"u"}"#;

async fn send(world: &World, encoding: &str, body: Body) -> Answer {
    let request = world.post("/v1/events", "application/cloudevents+json").header(header::CONTENT_ENCODING, encoding);
    world.send(request.body(body).expect("a request")).await
}

/// A zstd frame of `blocks` × 128 KiB spaces: 4 bytes a block.
fn zstd_bomb(blocks: usize) -> Vec<u8> {
    zstd(b"", blocks)
}

#[tokio::test]
async fn members_and_frames_are_read_to_the_last() {
    let world = World::new().await;
    let (start, end) = EVENT.split_at(40);
    let gzip = [gzipped(start.to_vec()).await, gzipped(end.to_vec()).await].concat();
    let zstd_frames = [zstd(start, 0), zstd(end, 0)].concat();
    let table = [("gzip", gzip), ("zstd", zstd_frames)];
    for (encoding, body) in table {
        for split in [false, true] {
            let sent = if split { chunked(&body) } else { Body::from(body.clone()) };
            let answer = send(&world, encoding, sent).await;
            assert_eq!(answer.status.as_u16(), 202, "{encoding} {split}: {answer:?}");
            assert_eq!(world.take()[0].value, EVENT, "{encoding}: both parts, and nothing else");
        }
        // A further member is never dropped in silence: here it makes the body no JSON.
        let garbled = match encoding {
            "gzip" => [gzipped(EVENT.to_vec()).await, gzipped(b"}".to_vec()).await].concat(),
            _ => [zstd(EVENT, 0), zstd(b"}", 0)].concat(),
        };
        assert_eq!(send(&world, encoding, Body::from(garbled)).await.problem(), (400, "not_json".to_owned()));
    }
}

#[tokio::test]
async fn a_body_that_is_cut_off_anywhere_is_refused() {
    let world = World::new().await;
    for (encoding, body) in [("gzip", gzipped(EVENT.to_vec()).await), ("zstd", zstd(EVENT, 0))] {
        for length in 1..body.len() {
            let answer = send(&world, encoding, Body::from(body[..length].to_vec())).await;
            assert_eq!(answer.status.as_u16(), 400, "{encoding}: {length} of {} bytes: {answer:?}", body.len());
        }
        let mut garbage = body.clone();
        garbage.extend_from_slice(b"garbage");
        assert_eq!(send(&world, encoding, Body::from(garbage)).await.status.as_u16(), 400, "{encoding}");
    }
    assert_eq!(world.take().len(), 0);
}

#[tokio::test]
async fn bombs_end_at_the_limit() {
    let settings = Settings {
        body_limit: ByteSize::mib(1),
        in_flight_limit: ByteSize::mib(2),
        queue_wait: jiff::SignedDuration::from_secs(30),
        ..Settings::default()
    };
    let world = World::with(settings).await;
    let gzip = gzipped(vec![b' '; 32 << 20]).await;
    // 1 GiB behind 32 KiB.
    let zstd = zstd_bomb(8_192);
    for (encoding, bomb) in [("gzip", gzip), ("zstd", zstd)] {
        assert!(bomb.len() < 40 << 10, "{encoding}: {} bytes", bomb.len());
        let started = Instant::now();
        // Memory for one body; eight at once wait for each other and end all the same.
        let answers = (0..8).map(|_| send(&world, encoding, Body::from(bomb.clone())));
        for answer in futures::future::join_all(answers).await {
            assert_eq!(answer.problem(), (413, "body_too_large".to_owned()), "{encoding}");
        }
        // Each reads on over 16 MiB at most, and keeps nothing of it.
        assert!(started.elapsed() < Duration::from_secs(10), "{encoding}: {:?}", started.elapsed());
    }
    assert_eq!(world.take().len(), 0);
}

#[tokio::test]
async fn a_window_that_would_take_much_memory_is_refused() {
    let world = World::new().await;
    // Window descriptor (RFC 8878 §3.1.1.1.2): exponent 21, 2 GiB.
    let mut frame = zstd(EVENT, 0);
    frame[5] = 21 << 3;
    assert_eq!(send(&world, "zstd", Body::from(frame)).await.status.as_u16(), 400);
}
