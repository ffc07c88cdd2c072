//! Tokens from the command line: what each role sees of a running service, and that it ends.

use std::time::Duration;

use e2e::{
    free_port,
    process::{Server, embedded, run, succeed, wait_for},
};

#[tokio::test]
async fn a_token_sees_its_part_until_it_is_revoked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("demo");
    let _ = succeed(&["demo", "--once", "--events", "3000", "--dir", &dir.display().to_string()], &[]);
    let environment = embedded(&dir);
    let listen = format!("127.0.0.1:{}", free_port());
    let url = format!("http://{listen}");
    let log = folder.path().join("serve.log");
    let mut server = Server::start(&["serve", "--role", "query", "--listen", &listen], &environment, &log);
    server.ready(&format!("{url}/readyz")).await;

    let token = |options: &[&str]| {
        let arguments = [&["token", "create", "--org", "acme"], options].concat();
        succeed(&arguments, &environment).trim().to_owned()
    };
    let ask = |token: &str, statement: &str| {
        let key = [("DAYBOOK_KEY".to_owned(), token.to_owned())];
        let (code, answer, refusal) = run(&["query", "--url", &url, "--format", "csv", statement], &key);
        if code == 0 { Ok(answer) } else { Err(refusal) }
    };
    let people = "SELECT DISTINCT user_key FROM rollup_daily ORDER BY 1";
    let all = ask(&token(&["--role", "admin"]), people).expect("an answer");
    assert!(all.lines().count() > 3 && !all.contains("pseudonym:"), "{all}");
    let somebody = all.lines().nth(1).expect("a person");

    let analyst = token(&["--role", "analyst", "--expires", "1d", "--label", "bi"]);
    let hidden = ask(&analyst, people).expect("an answer");
    assert_eq!(hidden.lines().count(), all.lines().count());
    assert!(hidden.lines().skip(1).all(|person| person.starts_with("pseudonym:")), "{hidden}");
    let refusal = ask(&analyst, "SELECT count(*) FROM events").expect_err("closed");
    assert!(refusal.contains("`events` is not for the role `analyst`"), "{refusal}");
    let member = token(&["--role", "member", "--user", somebody]);
    assert_eq!(ask(&member, people).expect("an answer"), format!("user_key\n{somebody}\n"));

    for (options, says) in [
        (["--role", "lead", "--label", "x"], "--team TEAM"),
        (["--role", "member", "--expires", "1d"], "--user USER_KEY"),
        (["--role", "admin", "--team", "x"], "--team goes with the role lead"),
        (["--role", "analyst", "--expires", "soon"], "90d or 12h"),
    ] {
        let (code, _, refusal) = run(&[&["token", "create", "--org", "acme"], &options[..]].concat(), &environment);
        assert!(code == 2 && refusal.contains(says), "{options:?}: {code} {refusal}");
    }
    let listed = succeed(&["token", "list", "--org", "acme", "--format", "csv"], &environment);
    let id = analyst.split('_').nth(1).expect("dbk_<id>_<secret>");
    assert!(listed.lines().any(|line| line.starts_with(&format!("{id},analyst,bi,"))), "{listed}");
    let _ = succeed(&["token", "revoke", id], &environment);
    wait_for("the token is refused", Duration::from_secs(10), async || {
        ask(&analyst, people).is_err_and(|refusal| refusal.contains("unknown or revoked"))
    })
    .await;
    assert_eq!(server.terminate(), 0);
}
