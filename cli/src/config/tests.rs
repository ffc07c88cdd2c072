use std::{fs, path::PathBuf};

use super::*;

/// Sources from a file's text and `--set` options, whatever the environment holds.
fn sources(file: &str, set: &[&str]) -> Sources {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let path: PathBuf = dir.path().join("test.toml");
    fs::write(&path, file).expect("it can be written to");
    let args = ConfigArgs { config: Some(path), set: set.iter().map(|&set| set.to_owned()).collect() };
    Sources::read(&args).expect("the file is there")
}

fn faults(file: &str, set: &[&str]) -> Vec<String> {
    let faults = check::config(&sources(file, set).0).expect_err("there are faults");
    faults.into_iter().map(|fault| format!("{}: {}", fault.key, fault.problem)).collect()
}

#[test]
fn the_defaults_are_complete_and_valid() {
    let config = check::config(&defaults()).expect("the defaults are valid");
    assert_eq!(config.log.embedded().append_buffer, ingest::log::EmbeddedSettings::default().append_buffer);
    assert_eq!(config.log.kafka(), ingest::log::KafkaSettings::default());
    assert_eq!(config.worker, ingest::worker::Settings::default());
    assert_eq!(config.maintain, lake::maintain::Settings::default());
    insta::assert_snapshot!(show::toml(&defaults()));
}

#[test]
fn file_and_command_line_override_in_this_order() {
    let config = sources("[worker]\nflush-age = \"3s\"\nflush-bytes = \"1MiB\"", &["worker.flush-age=5s"]).config();
    let config = config.expect("it is valid");
    assert_eq!(config.worker.flush_age, SignedDuration::from_secs(5));
    assert_eq!(config.worker.flush_bytes, ByteSize::mib(1));
}

#[test]
fn every_fault_is_reported_at_once() {
    let file = "
        [worker]
        flush-age = 5
        flush-byte = \"1MiB\"
        [http]
        listen = \"nowhere\"
        [log]
        kind = \"paper\"
        partitions = \"many\"
        [wurker]
        x = 1
    ";
    let found = faults(file, &["telemetry.format=xml"]);
    let keys: Vec<&str> = found.iter().map(|fault| fault.split(':').next().unwrap_or_default()).collect();
    assert_eq!(
        keys,
        [
            "http.listen",
            "log.kind",
            "log.partitions",
            "telemetry.format",
            "worker.flush-age",
            "worker.flush-byte",
            "wurker.x"
        ]
    );
    assert!(found[5].contains("did you mean `worker.flush-bytes`?"), "{found:?}");
}

#[test]
fn keys_cross_no_network_in_clear() {
    let found = faults("", &["query.pg-listen=0.0.0.0:5433", "query.flight-listen=[::]:32010", "query.tls-key-file=k"]);
    let keys: Vec<&str> = found.iter().map(|fault| fault.split(':').next().unwrap_or_default()).collect();
    assert_eq!(keys, ["query.flight-listen", "query.pg-listen", "query.tls-key-file"], "{found:?}");
    for setting in ["query.pg-listen=127.0.0.1:0", "query.flight-listen=[::1]:0"] {
        check::config(&sources("", &[setting]).0).expect("loopback is no network");
    }
}

#[test]
fn values_of_the_right_form_are_checked_too() {
    let found = faults("", &["log.partitions=0", "query.concurrent-requests=0", "telemetry.level=loud=very=much"]);
    let keys: Vec<&str> = found.iter().map(|fault| fault.split(':').next().unwrap_or_default()).collect();
    assert_eq!(keys, ["log.partitions", "query.concurrent-requests", "telemetry.level"]);
}

#[test]
fn secrets_are_never_shown() {
    let file = "
        [lake.options]
        aws_secret_access_key = \"s3cret\"
        aws_access_key_id = \"AKIA\"
        [log.kafka.properties]
        \"sasl.password\" = \"s3cret\"
        \"security.protocol\" = \"SASL_SSL\"
        [log.producers]
        signing-key = \"s3cret-s3cret-s3cret-s3cret-s3cret\"
        [query]
        cursor-key = \"s3cret-s3cret-s3cret-s3cret-s3cret\"
        [directory]
        url = \"postgres://me:s3cret@db/daybook\"
    ";
    let sources = sources(file, &[]);
    let shown = sources.show();
    assert!(!shown.contains("s3cret"), "{shown}");
    for kept in ["AKIA", "SASL_SSL", "me:hidden@db", "test.toml"] {
        assert!(shown.contains(kept), "{kept} in {shown}");
    }
    assert!(!format!("{:?}", sources.config().expect("it is valid")).contains("s3cret"));
}

#[test]
fn names_that_the_environment_cannot_have_are_translated() {
    let file = "
        [lake.options]
        aws-region = \"eu-central-1\"
        aws-allow-http = true
        [log.kafka.properties]
        sasl-password = \"x\"
    ";
    let config = sources(file, &["log.kafka.properties.session-timeout-ms=6000"]).config().expect("it is valid");
    let options = [("aws_allow_http", "true"), ("aws_region", "eu-central-1")];
    assert_eq!(config.lake.options(), options.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let properties = config.log.kafka().properties;
    assert!(properties.contains_key("sasl.password"));
    assert_eq!(properties["session.timeout.ms"], "6000", "a number stands for its text");
}
