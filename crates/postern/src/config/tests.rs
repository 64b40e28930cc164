use std::time::Duration;

use frontend::ListenAddr;

use super::*;

/// Reads a text and `NAME=value` variables.
fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    Config::read(text, variables)
}

#[track_caller]
fn check_error(text: &str, path: &str) {
    let error = read(text, &[]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{path}: ")), "{error}");
}

#[test]
fn errors_name_the_path() {
    check_error("[pop3]\nlisten = [\"nowhere\"]", "pop3.listen");
    check_error("[pop3]\nlisten = 5", "pop3.listen");
    check_error("[pop3]\nlitsen = []", "pop3.litsen");
    check_error("[nope]\nx = 1", "nope");
    check_error("[pop3]\nplaintext_auth = \"sometimes\"", "pop3.plaintext_auth");
    check_error("[pop3]\nidle_timeout = \"9m\"", "pop3.idle_timeout");
    check_error("[node]\ndrain_timeout = \"soon\"", "node.drain_timeout");
    check_error("[node]\nroles = [\"cook\"]", "node.roles");
    check_error("[gc]\ninterval = \"0s\"", "gc.interval");
    check_error("[gc]\ngrace = \"10ms\"", "gc.grace");
    check_error("[gc]\nlive_ratio = 1.5", "gc.live_ratio");
    check_error("[gc]\npack_octets = 10", "gc.pack_octets");
    check_error("[gc]\noctets_per_second = 0", "gc.octets_per_second");
    check_error("[pop3s]\nlisten = [\"127.0.0.1:995\"]", "tls.certificate_file");
    check_error("[admin]\nlisten = [\"127.0.0.1:8080\"]", "admin.token_file");
    check_error("[blob]\nkind = \"s3\"", "blob.bucket");
    check_error("[blob]\nkind = \"tape\"", "blob.kind");
    let s3 = "[blob]\nkind = \"s3\"\nbucket = \"b\"\n";
    check_error(&format!("{s3}replica_bucket = \"b\""), "blob.replica_bucket");
    check_error(&format!("{s3}replica_region = \"eu-west-1\""), "blob.replica_bucket");
    check_error("[blob]\nreplica_bucket = \"b\"", "blob.replica_bucket");
    check_error(&format!("{s3}retries_max = 2000000"), "blob.retries_max");
    check_error("[index]\nurl = \"mysql://x\"", "index.url");
    check_error("[index]\nurl = \"postgres://x\"", "keys.master_key_file");
    check_error("[keys]\nmaster_key = \"a\"\nmaster_key_file = \"b\"", "keys.master_key");
    check_error("[lmtp]\nmax_message_octets = 4000000001", "lmtp.max_message_octets");
    check_error("[log]\nfilter = \"===\"", "log.filter");
    check_error("[pop3]\nproxy_protocol = \"require\"", "proxy.trusted_networks");
    check_error("[pop3]\nxclient = true", "proxy.trusted_networks");
    check_error("[lmtp]\nproxy_protocol = \"maybe\"", "lmtp.proxy_protocol");
    check_error("[proxy]\ntrusted_networks = [\"10.1.0.0/8\"]", "proxy.trusted_networks");
    check_error("[proxy]\nheader_timeout = \"0s\"", "proxy.header_timeout");
    check_error("[telemetry]\notlp_endpoint = \"collector:4317\"", "telemetry.otlp_endpoint");
    check_error("[telemetry]\nsampling_ratio = 1.5", "telemetry.sampling_ratio");
    check_error("[metrics]\ntenant_series = 5", "metrics.tenant_series");
    check_error("[audit]\nkept_days = 29", "audit.kept_days");
    check_error("pop3 = 1", "pop3");
    check_error("[pop3", "(file)");
}

#[test]
fn environment_overrides_the_file() {
    let config = read(
        "[pop3]\nlisten = [\"127.0.0.1:1\"]\n[node]\nname = \"a\"",
        &[
            ("POSTERN__POP3__LISTEN", "127.0.0.1:2,127.0.0.1:3"),
            ("POSTERN__NODE__NAME", "b"),
            ("POSTERN__LMTP__LISTEN", "[\"unix:/run/x\"]"),
            ("POSTERN__LMTP__MAX_RECIPIENTS", "7"),
            ("POSTERN__POP3S__PROXY_PROTOCOL", "require"),
            ("POSTERN__PROXY__TRUSTED_NETWORKS", "10.0.0.0/8, 192.0.2.7"),
            ("POSTERN__NODE__DRAIN_TIMEOUT", "5s"),
            ("POSTERN__NODE__ROLES", "pop3, lmtp"),
            ("POSTERN__BLOB__BUCKET", "12345"),
            ("POSTERN_ADMIN_TOKEN", "not a configuration key"),
        ],
    )
    .unwrap();
    assert_eq!(config.pop3.listen.len(), 2);
    assert_eq!(config.node.name.as_deref(), Some("b"));
    assert_eq!(config.lmtp.listen, [ListenAddr::Unix("/run/x".into())]);
    assert_eq!(config.lmtp.max_recipients, 7);
    assert_eq!(config.pop3s.proxy_protocol, ProxyMode::Require);
    assert_eq!(config.proxy.trusted_networks.len(), 2);
    assert_eq!(config.node.roles, [Role::Pop3, Role::Lmtp]);
    assert_eq!(config.blob.bucket.as_deref(), Some("12345"));
    assert_eq!(config.node.drain_timeout, Duration::from_secs(5));
    let error = read("", &[("POSTERN__POP3__NOPE", "1")]).unwrap_err().to_string();
    assert!(error.starts_with("pop3.nope: "), "{error}");
    assert!(read("", &[("POSTERN__POP3", "1")]).is_err());
}

#[test]
fn secrets_are_not_shown() {
    let config =
        read("[index]\nurl = \"sqlite:hunter2\"", &[("POSTERN__KEYS__MASTER_KEY", "12345")]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let error = read("[keys]\nmaster_key = hunter2\n", &[]).unwrap_err().to_string();
    assert!(error.starts_with("(file): line 2: ") && !error.contains("hunter2"), "{error}");
    assert_eq!(config.keys.master_key.unwrap().expose(), "12345");
}

#[test]
fn headers_for_the_collector_are_read_and_not_shown() {
    let headers =
        |text: &str| read(&format!("[telemetry]\notlp_headers = \"{text}\""), &[]).unwrap().telemetry;
    let good = headers("authorization=Bearer a=b, x-scope = me").headers().unwrap();
    assert_eq!(good, [("authorization", "Bearer a=b"), ("x-scope", "me")].map(|(n, v)| (n.into(), v.into())));
    for bad in ["hunter2", "hunter2,", "a b=hunter2"] {
        let error = headers(bad).headers().unwrap_err().to_string();
        assert!(error.starts_with("telemetry.otlp_headers: ") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn the_audit_log_is_kept_for_a_year_unless_told_otherwise() {
    let kept = |text: &str| {
        let config = read(text, &[]).unwrap();
        config.worker.housekeeping(&config.audit).audit_kept_days
    };
    assert_eq!(kept(""), Some(400));
    assert_eq!(kept("[audit]\nkept_days = 30"), Some(30));
    assert_eq!(kept("[audit]\nkept_days = 0"), None);
}

#[test]
fn an_empty_configuration_is_embedded() {
    assert!(read("", &[]).unwrap().is_embedded());
}

#[test]
fn the_samples_can_be_read() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config");
    let mut count = 0;
    for entry in std::fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        read(&text, &[]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        count += 1;
    }
    assert!(count > 0);
}
