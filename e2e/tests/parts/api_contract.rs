//! The API against its own description, by Schemathesis: what each route takes, refuses and answers.

use std::process::Command;

use e2e::{
    free_port, installed,
    process::{Server, embedded, succeed},
};

/// Requests of each kind and route; `SCHEMATHESIS_EXAMPLES` asks for more.
const EXAMPLES: &str = "8";

#[tokio::test]
async fn it_does_what_it_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("demo");
    let _ = succeed(&["demo", "--once", "--events", "3000", "--dir", &dir.display().to_string()], &[]);
    let environment = embedded(&dir);
    let key = succeed(&["key", "create", "--org", "acme", "--scope", "read"], &environment);
    let listen = format!("127.0.0.1:{}", free_port());
    let log = folder.path().join("serve.log");
    let mut server = Server::start(&["serve", "--role", "query", "--listen", &listen], &environment, &log);
    server.ready(&format!("http://{listen}/readyz")).await;

    let examples = std::env::var("SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| EXAMPLES.to_owned());
    let mut schemathesis = Command::new(installed("DAYBOOK_E2E_PYTHON").with_file_name("schemathesis"));
    // It keeps what it found beside where it runs.
    schemathesis.current_dir(folder.path()).args(["run", &format!("http://{listen}/v1/openapi.json"), "--no-color"]);
    schemathesis.args(["--header", &format!("Authorization: Bearer {}", key.trim())]);
    // All but one check: no grammar of SQL and no seal of cursors fits into a schema, so that of what it allows, some is refused.
    schemathesis.args(["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--max-examples", &examples]);
    let output = schemathesis.output().expect("Schemathesis starts");
    let said = String::from_utf8_lossy(&output.stdout);
    // A request may be as long as a URL can be.
    let shown: Vec<String> = said.lines().map(|line| line.chars().take(300).collect()).collect();
    assert!(output.status.success(), "{}\n{}", shown.join("\n"), String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.terminate(), 0);
}
