//! Analysts' tools over TLS: psql, psycopg, SQLAlchemy and JDBC by PostgreSQL's protocol and ADBC by Arrow Flight SQL run one script of statements and must
//! all see the same; each describes the tables in its own way.

use std::process::Command;

use e2e::{
    free_port, installed,
    process::{Server, embedded, oracle, setting, succeed},
};

/// A certificate for 127.0.0.1 that signs itself, and its key.
fn certificate(folder: &std::path::Path) -> [String; 2] {
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| folder.join(name).display().to_string());
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", &key, "-out", &certificate]);
    let made = openssl.output().expect("openssl starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    [certificate, key]
}

#[tokio::test]
async fn analysts_tools_see_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("demo");
    let _ = succeed(&["demo", "--once", "--events", "5000", "--dir", &dir.display().to_string()], &[]);
    let [certificate, private] = certificate(folder.path());
    let mut environment = embedded(&dir);
    environment.push(setting("query.tls-certificate-file", &certificate));
    environment.push(setting("query.tls-key-file", &private));
    let key = succeed(&["key", "create", "--org", "acme", "--scope", "read"], &environment);
    let analyst = succeed(&["token", "create", "--org", "acme", "--role", "analyst"], &environment);
    let [listen, sql, flight] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    let log = folder.path().join("serve.log");
    let arguments = ["serve", "--role", "query", "--listen", &listen, "--pg-listen", &sql, "--flight-listen", &flight];
    let mut server = Server::start(&arguments, &environment, &log);
    server.ready(&format!("http://{listen}/readyz")).await;

    let jars = installed("DAYBOOK_E2E_JDBC_LIBS").display().to_string();
    // What libpq reads: psql and psycopg trust this certificate and no other.
    let environment = [
        ("TMPDIR", folder.path().display().to_string()),
        ("PGSSLMODE", "verify-full".to_owned()),
        ("PGSSLROOTCERT", certificate),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value));
    let [port, flight_port] = [&sql, &flight].map(|address| address.split(':').next_back().expect("a port"));
    let arguments = ["127.0.0.1", port, flight_port, key.trim(), analyst.trim(), &jars];
    let said = oracle("sql_clients.py", &arguments, &environment);
    let said = said.unwrap_or_else(|error| panic!("{error}\n{}", server.log()));
    assert_eq!(said["differences"], serde_json::json!([]));
    let statements = said["statements"].as_u64().expect("a number");
    assert!(statements >= 40, "{statements}");
    let checks = said["checks"].as_object().expect("an object");
    assert_eq!(checks.len(), 8);
    for (name, outcome) in checks {
        if name == "described" && outcome == "NotImplementedError: psql is not installed" {
            eprintln!("psql is not installed (apt-get install postgresql-client): what it shows is left out");
            continue;
        }
        assert_eq!(outcome, "ok", "{name}");
    }
    assert_eq!(server.terminate(), 0);
}
