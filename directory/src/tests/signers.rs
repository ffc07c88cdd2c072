//! Keys that sign records.

use super::{Database, now, org};
use crate::{KeyId, MacKey, Scope};

on_both! {
    only_keys_made_for_it_sign_and_their_secret_is_not_kept,
}

async fn only_keys_made_for_it_sign_and_their_secret_is_not_kept(database: Database) {
    let directory = database.with_acme().await;
    let mut ids: Vec<KeyId> = Vec::new();
    for scope in [Scope::Ingest, Scope::Read] {
        ids.push(directory.create_key(&org("acme"), scope, "", now()).await.expect("new").0);
    }
    let (id, secret) = directory.create_key(&org("acme"), Scope::Produce, "", now()).await.expect("new");
    let unknown: KeyId = "0123456789abcdef".parse().expect("a key id");
    ids.extend([id.clone(), unknown]);
    let signers = directory.signers(&ids).await.expect("readable");
    assert_eq!(signers.len(), 1, "of four, one may sign: {signers:?}");
    assert_eq!((&signers[0].id, &signers[0].org, signers[0].revoked_at), (&id, &org("acme"), None));
    assert_eq!(signers[0].mac_key, secret.mac_key(), "client and server derive the same");
    assert_eq!(secret.mac_key(), MacKey::derive(&secret.expose().as_bytes()[21..]));

    let kept: Vec<Option<String>> =
        sqlx::query_scalar("SELECT mac_key FROM keys").fetch_all(&directory.pool).await.expect("readable");
    assert_eq!(kept.iter().flatten().count(), 1, "a leak of the database gives nobody an ingest key to sign with");
    let text = format!("{signers:?} {kept:?}");
    assert!(!text.contains(&secret.expose()[21..]));
    assert!(!format!("{signers:?}").contains(kept.iter().flatten().next().expect("one")));

    for scope in [Scope::Ingest, Scope::Read] {
        let found = directory.authenticate(secret.expose(), scope).await.expect("readable");
        assert_eq!(found, None, "over HTTP such a key is good for nothing");
    }
    assert!(directory.revoke_key(&id, now()).await.expect("writable"));
    let signers = directory.signers(&ids).await.expect("readable");
    assert_eq!(signers[0].revoked_at, Some(now()), "a revoked key is still told, with its time");
    let many: Vec<KeyId> = (0..1_500).map(|n| format!("{n:016x}").parse().expect("a key id")).chain(ids).collect();
    assert_eq!(directory.signers(&many).await.expect("readable").len(), 1);
}
