//! Through the public interface, on SQLite and on PostgreSQL.

use jiff::Timestamp;
use schemas::OrgId;
use sqlx::{AnyConnection, Connection as _, Row as _};

use super::{CACHE_TTL, Directory, Error, KeyId, NewKey, OrgChange, Role, Scope, cache, key};

/// Each function as a test on SQLite and one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            #[tokio::test]
            async fn on_sqlite() {
                super::$name(crate::tests::Database::sqlite()).await;
            }

            #[tokio::test]
            async fn on_postgresql() {
                if let Some(database) = crate::tests::Database::postgresql().await {
                    super::$name(database).await;
                }
            }
        })+
    };
}
pub(crate) use on_both;

mod audit;
mod lease;
mod migration;
mod opt_in;
mod quota;
mod signers;

on_both! {
    organisations,
    a_changed_organisation_keeps_the_rest,
    keys_are_hashed_and_never_printed,
    authenticate_table,
    revoked_here_ends_at_once_elsewhere_within_the_ttl,
    a_key_ends_and_keeps_its_role,
    pseudonyms_have_one_key_for_ever,
    requests_do_not_reach_the_database,
    made_up_keys_do_not_drive_out_real_ones,
    processes_that_start_at_once_all_open_a_new_directory,
    open_again_keeps_everything_and_refuses_a_changed_schema,
}

fn now() -> Timestamp {
    "2026-03-04T05:06:07.123456Z".parse().expect("a time")
}

fn org(id: &str) -> OrgId {
    id.parse().expect("an organisation id")
}

/// A database of its own, empty.
pub(crate) struct Database {
    url: String,
    folder: Option<tempfile::TempDir>,
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        Self { url: format!("sqlite://{}", folder.path().join("directory.db").display()), folder: Some(folder) }
    }

    /// On the server that `cargo xtask test` starts; `None` where there is none.
    pub(crate) async fn postgresql() -> Option<Self> {
        let Ok(server) = std::env::var("DAYBOOK_TEST_POSTGRES") else {
            eprintln!("left out: DAYBOOK_TEST_POSTGRES names no server; `cargo xtask test` starts one");
            return None;
        };
        sqlx::any::install_default_drivers();
        let name = format!("test_{:016x}", rand::random::<u64>());
        let mut connection = AnyConnection::connect(&server).await.expect("the server is there");
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(create).execute(&mut connection).await.expect("it may make databases");
        let mut url = url::Url::parse(&server).expect("a URL");
        url.set_path(&name);
        Some(Self { url: url.into(), folder: None })
    }

    /// Another one of the same kind.
    async fn another(&self) -> Self {
        if self.folder.is_some() { Self::sqlite() } else { Self::postgresql().await.expect("as before") }
    }

    pub(crate) async fn open(&self) -> Directory {
        Directory::open(&self.url).await.expect("a database that is there can be opened")
    }

    /// With an organisation.
    async fn with_acme(&self) -> Directory {
        let directory = self.open().await;
        directory.create_org(&org("acme"), "Acme", "Europe/Zurich", now()).await.expect("new");
        directory
    }
}

async fn organisations(database: Database) {
    let directory = database.with_acme().await;
    let again = directory.create_org(&org("acme"), "Other", "UTC", now()).await;
    assert!(matches!(again, Err(Error::OrgExists(id)) if id == org("acme")));
    for zone in ["", "Mars/Olympus", "Europe/Zurich; DROP TABLE keys", "+01:00"] {
        let refused = directory.create_org(&org("beta"), "Beta", zone, now()).await;
        assert!(matches!(refused, Err(Error::TimeZone(_))), "{zone}");
    }
    directory.create_org(&org("beta"), "Beta", "UTC", now()).await.expect("new");
    let orgs = directory.orgs().await.expect("readable");
    let found: Vec<_> = orgs.iter().map(|org| (org.id.as_str(), org.name.as_str(), org.time_zone.as_str())).collect();
    assert_eq!(found, [("acme", "Acme", "Europe/Zurich"), ("beta", "Beta", "UTC")]);
    assert!(orgs.iter().all(|org| org.created_at == now() && org.allowed_lateness_hours == 72));
}

async fn a_changed_organisation_keeps_the_rest(database: Database) {
    let directory = database.with_acme().await;
    directory.create_org(&org("beta"), "Beta", "UTC", now()).await.expect("new");
    let after = async |change: OrgChange| {
        directory.change_org(&org("acme"), &change, now()).await?;
        let orgs = directory.orgs().await.expect("readable");
        assert_eq!((orgs[1].time_zone.as_str(), orgs[1].daily_quota), ("UTC", None), "nobody else's");
        Ok::<_, Error>((orgs[0].time_zone.clone(), orgs[0].allowed_lateness_hours, orgs[0].daily_quota))
    };
    let of = |zone: &str, hours, quota| (zone.to_owned(), hours, quota);
    let change = OrgChange { time_zone: Some("Asia/Tokyo".into()), ..OrgChange::default() };
    assert_eq!(after(change).await.expect("a zone"), of("Asia/Tokyo", 72, None));
    let change = OrgChange { daily_quota: Some(Some(9)), allowed_lateness_hours: Some(0), ..OrgChange::default() };
    assert_eq!(after(change).await.expect("in range"), of("Asia/Tokyo", 0, Some(9)));
    let change =
        OrgChange { time_zone: Some("Mars/Olympus".into()), allowed_lateness_hours: Some(1), ..Default::default() };
    assert!(matches!(after(change).await, Err(Error::TimeZone(_))));
    let change = OrgChange { allowed_lateness_hours: Some(8785), daily_quota: Some(None), ..OrgChange::default() };
    assert!(matches!(after(change).await, Err(Error::Lateness(8785))));
    assert_eq!(after(OrgChange::default()).await.expect("nothing"), of("Asia/Tokyo", 0, Some(9)), "all or nothing");
    assert_eq!(after(OrgChange { daily_quota: Some(None), ..OrgChange::default() }).await.expect("none").2, None);
    let unknown = directory.change_org(&org("nobody"), &OrgChange::default(), now()).await;
    assert!(matches!(unknown, Err(Error::UnknownOrg(id)) if id == org("nobody")));
}

async fn keys_are_hashed_and_never_printed(database: Database) {
    let directory = database.with_acme().await;
    let (id, secret) = directory.create_key(&org("acme"), Scope::Ingest, "laptop", now()).await.expect("new");
    let shown = secret.expose();
    assert!(shown.starts_with(&format!("dbk_{id}_")) && shown.len() == 4 + 16 + 1 + 43, "{shown}");
    assert_eq!(format!("{secret:?}"), "Secret(…)");
    let row = sqlx::query("SELECT * FROM keys").fetch_one(&directory.pool).await.expect("one key");
    let stored: String = row.get("secret_sha256");
    assert_eq!(stored, hex::encode(key::digest(shown.rsplit_once(&format!("{id}_")).expect("its parts").1)));
    let everything = format!("{:?}", directory.keys(&org("acme")).await.expect("readable"));
    assert!(!everything.contains(&shown[21..]) && !everything.contains(&stored), "{everything}");
    let unknown = directory.create_key(&org("nobody"), Scope::Read, "", now()).await;
    assert!(matches!(unknown, Err(Error::UnknownOrg(id)) if id == org("nobody")));
}

async fn authenticate_table(database: Database) {
    let directory = database.with_acme().await;
    directory.create_org(&org("beta"), "Beta", "UTC", now()).await.expect("new");
    let (id, secret) = directory.create_key(&org("acme"), Scope::Ingest, "", now()).await.expect("new");
    let (_, other) = directory.create_key(&org("beta"), Scope::Ingest, "", now()).await.expect("new");
    let good = secret.expose();
    let of = async |presented: &str, scope| directory.authenticate(presented, scope).await.expect("readable");

    let principal = of(good, Scope::Ingest).await.expect("a valid key");
    assert_eq!((principal.org, principal.key_id, principal.scope), (org("acme"), id.clone(), Scope::Ingest));
    assert_eq!(of(good, Scope::Read).await, None, "another scope");

    let mut last = good.to_owned();
    let changed = if last.pop() == Some('A') { 'B' } else { 'A' };
    last.push(changed);
    let bad = [
        String::new(),
        "dbk_".to_owned(),
        format!("dbk_{id}_"),
        format!("dbk_{id}"),
        last,
        good.to_uppercase(),
        format!("{good} "),
        format!("{good}A"),
        good.replacen("dbk_", "", 1),
        // The id of one key with the secret of another.
        format!("dbk_{id}_{}", &other.expose()[21..]),
        format!("dbk_{id}_{}", "é".repeat(22)),
        format!("dbk_0123456789abcdef_{}", &good[21..]),
        "' OR 1=1 --".to_owned(),
    ];
    for presented in bad {
        assert_eq!(of(&presented, Scope::Ingest).await, None, "{presented}");
    }
}

async fn revoked_here_ends_at_once_elsewhere_within_the_ttl(database: Database) {
    let (here, there) = (database.open().await, database.open().await);
    here.create_org(&org("acme"), "Acme", "UTC", now()).await.expect("new");
    let (id, secret) = here.create_key(&org("acme"), Scope::Read, "", now()).await.expect("new");
    let valid = async |directory: &Directory| {
        directory.authenticate(secret.expose(), Scope::Read).await.expect("readable").is_some()
    };
    assert!(valid(&here).await && valid(&there).await);

    assert!(here.revoke_key(&id, now()).await.expect("writable"));
    assert!(!here.revoke_key(&id, now()).await.expect("writable"), "once is enough");
    assert!(!valid(&here).await, "at once");
    assert!(valid(&there).await, "another process believes what it read for a while");
    // The database works on threads of its own; time stands still only while it is not asked.
    tokio::time::pause();
    tokio::time::advance(CACHE_TTL).await;
    tokio::time::resume();
    assert!(!valid(&there).await, "no longer than the TTL");

    let keys = there.keys(&org("acme")).await.expect("readable");
    assert_eq!(keys.iter().map(|key| (key.id.clone(), key.revoked_at)).collect::<Vec<_>>(), [(id, Some(now()))]);
    let unknown: KeyId = "0123456789abcdef".parse().expect("a key id");
    assert!(!there.revoke_key(&unknown, now()).await.expect("writable"));
}

async fn a_key_ends_and_keeps_its_role(database: Database) {
    let directory = database.with_acme().await;
    #[allow(clippy::disallowed_methods, reason = "keys end by the clock on the wall")]
    let today = Timestamp::now();
    let hour = jiff::SignedDuration::from_hours(1);
    let roles = [
        Role::Service,
        Role::Admin,
        Role::Analyst { names: false },
        Role::Analyst { names: true },
        Role::Lead { team: "it's".to_owned() },
        Role::Member { user: "email:ada@acme.example".to_owned() },
    ];
    for role in &roles {
        for (expires_at, valid) in [(None, true), (Some(today + hour), true), (Some(today - hour), false)] {
            let new = NewKey { role: role.clone(), expires_at, ..NewKey::of(Scope::Read, "") };
            let (_, secret) = directory.create_key_as(&org("acme"), &new, now()).await.expect("new");
            let principal = directory.authenticate(secret.expose(), Scope::Read).await.expect("readable");
            assert_eq!(principal.map(|principal| principal.role), valid.then(|| role.clone()), "{expires_at:?}");
        }
    }
    let keys = directory.keys(&org("acme")).await.expect("readable");
    assert!(roles.iter().all(|role| keys.iter().filter(|key| key.role == *role).count() == 3));
}

async fn pseudonyms_have_one_key_for_ever(database: Database) {
    let (here, there) = (database.open().await, database.open().await);
    for name in ["acme", "globex"] {
        here.create_org(&org(name), name, "UTC", now()).await.expect("new");
    }
    let acme = org("acme");
    let (first, second) = tokio::join!(here.pseudonym_key(&acme), there.pseudonym_key(&acme));
    let first = first.expect("readable");
    assert_eq!(first, second.expect("readable"));
    assert_eq!(first.pseudonym("email:ada@acme.example").len(), "pseudonym:".len() + 32);
    assert_ne!(first.pseudonym("ada"), first.pseudonym("bob"));
    let other = here.pseudonym_key(&org("globex")).await.expect("readable");
    assert_ne!(first.pseudonym("ada"), other.pseudonym("ada"));
    assert_eq!(format!("{first:?}"), "PseudonymKey(MacKey(…))");
    assert!(matches!(here.pseudonym_key(&org("nobody")).await, Err(Error::UnknownOrg(_))));
}

async fn requests_do_not_reach_the_database(database: Database) {
    let directory = database.with_acme().await;
    let (_, secret) = directory.create_key(&org("acme"), Scope::Read, "", now()).await.expect("new");
    let unknown = format!("dbk_0123456789abcdef_{}", &secret.expose()[21..]);
    for presented in [secret.expose(), &unknown] {
        directory.authenticate(presented, Scope::Read).await.expect("readable");
    }
    directory.pool.close().await;
    for _ in 0..100 {
        assert!(directory.authenticate(secret.expose(), Scope::Read).await.expect("from the cache").is_some());
        assert!(directory.authenticate(&unknown, Scope::Read).await.expect("from the cache").is_none());
    }
    let fresh = format!("dbk_1123456789abcdef_{}", &secret.expose()[21..]);
    let error = directory.authenticate(&fresh, Scope::Read).await;
    assert!(matches!(error, Err(Error::Database(_))), "a database that is away is no verdict on a key");
}

async fn made_up_keys_do_not_drive_out_real_ones(database: Database) {
    let directory = database.with_acme().await;
    let (id, secret) = directory.create_key(&org("acme"), Scope::Read, "", now()).await.expect("new");
    directory.authenticate(secret.expose(), Scope::Read).await.expect("readable");
    for n in 0..cache::CACHE_KEYS_MAX + 100 {
        directory.cache.put(format!("{n:016x}").parse().expect("a key id"), None);
    }
    assert_eq!(directory.cache.len(), cache::CACHE_KEYS_MAX);
    assert!(directory.cache.get(&id).flatten().is_some());
}

async fn processes_that_start_at_once_all_open_a_new_directory(first: Database) {
    for _ in 0..20 {
        let database = first.another().await;
        for directory in futures::future::join_all((0..4).map(|_| Directory::open(&database.url))).await {
            directory.expect("one makes it, the others wait");
        }
    }
}

async fn open_again_keeps_everything_and_refuses_a_changed_schema(database: Database) {
    let (one, two) = (database.open().await, database.open().await);
    one.create_org(&org("acme"), "Acme", "UTC", now()).await.expect("new");
    assert_eq!(two.orgs().await.expect("readable").len(), 1);
    let orphan = "INSERT INTO quota_leases (org_id, day, quota, leased, granted) VALUES ('nobody', 0, 0, 0, 0)";
    assert!(sqlx::raw_sql(orphan).execute(&one.pool).await.is_err(), "foreign keys hold");
    let change = "UPDATE _sqlx_migrations SET checksum = (SELECT checksum FROM _sqlx_migrations WHERE version = 1) WHERE version = 2";
    sqlx::query(change).execute(&one.pool).await.expect("writable");
    assert!(matches!(Directory::open(&database.url).await, Err(Error::Migrate(_))));
}

#[tokio::test]
async fn only_databases_that_we_know() {
    for url in ["mysql://localhost/x", "directory.db", "", "postgres://host:port/x"] {
        assert!(matches!(Directory::open(url).await, Err(Error::Url { .. })), "{url}");
    }
    let away = Directory::open("postgres://daybook:hunter2@127.0.0.1:1/daybook").await;
    let error = away.expect_err("nobody listens there");
    assert!(matches!(error, Error::Database(_)) && !format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn sqlite_keeps_what_it_confirmed() {
    let database = Database::sqlite();
    let directory = database.open().await;
    for (pragma, expected) in [("journal_mode", "wal"), ("synchronous", "2"), ("foreign_keys", "1")] {
        let select = sqlx::AssertSqlSafe(format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}"));
        let value: String = sqlx::query_scalar(select).fetch_one(&directory.pool).await.expect("readable");
        assert_eq!(value, expected, "{pragma}");
    }
}
