//! `daybook demo --once`, as a newcomer runs it.

use e2e::process::run;

#[test]
fn a_second_run_adds_nothing_twice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("demo");
    let arguments = ["demo", "--once", "--events", "20000", "--dir", dir.to_str().expect("UTF-8")];
    for time in ["first", "second"] {
        // The command itself compares sent, stored, duplicates, dead letters and the rollup, and ends with 0 only if all agree.
        let (code, out, err) = run(&arguments, &[]);
        assert_eq!(code, 0, "{time}: {out}\n{err}");
        assert!(out.contains("ok   sent = accepted + refused"), "{time}: {out}");
    }
    let settings = e2e::process::embedded(&dir);
    let counted = e2e::process::query(
        "SELECT sum(events_received) AS n, sum(duplicates_removed) AS d FROM rollup_daily",
        &settings,
    );
    let stored = e2e::process::query("SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM events", &settings);
    assert_eq!(counted[0]["n"], stored[0]["ids"], "each event counts once: {counted} {stored}");
}
