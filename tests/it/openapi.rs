//! The admin API does what its OpenAPI document says: schemathesis tries every operation with data that fit and data
//! that do not, one by one and one after the other, with all of its checks.

use std::{fs, path::PathBuf, process::Command};

use serde_json::json;

use crate::support::{Http, Node, NodeOptions, env, message};

/// What schemathesis is told: see there.
fn configuration() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemathesis")
}

/// Runs schemathesis against the node as the owner of this token.
fn try_api(node: &Node, name: &str, token: &str, more: &str) {
    let text = fs::read_to_string(configuration().join("schemathesis.toml")).unwrap() + more;
    let file = node.dir.path().join(format!("{name}.toml"));
    fs::write(&file, text).unwrap();
    let output = Command::new(env("POSTERN_TEST_SCHEMATHESIS"))
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", configuration())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(node.dir.path())
        .arg("--config-file")
        .arg(&file)
        .args(["run", &format!("http://{}/openapi.json", node.admin), "--checks", "all", "--no-color"])
        // A run can be repeated.
        .args(["--seed", "4711", "--continue-on-failure", "--warnings", "off"])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    let tested = report.lines().find(|line| line.contains("generated")).unwrap_or("").trim();
    println!("schemathesis as {name}: {tested}");
}

#[test]
fn schemathesis_finds_nothing_as_the_platforms_administrator() {
    let node = Node::start(&NodeOptions::embedded());
    let (status, key) =
        node.http().json("POST", "/v1/api-keys", &json!({ "label": "st", "role": "platform_admin" }));
    assert_eq!(status, 201, "{key}");
    try_api(&node, "platform_admin", key["key"].as_str().unwrap(), "");
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

/// Within a tenant that has something of everything, most requests lead somewhere.
#[test]
fn schemathesis_finds_nothing_within_a_tenant() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let http = node.http();
    let path = format!("/v1/tenants/one/mailboxes/{a}/messages");
    for number in 0..3 {
        let delivered = http.raw("POST", &path, "message/rfc822", &message(&format!("m{number}"), 2000));
        assert_eq!(delivered.0, 201, "{delivered:?}");
    }
    let body = json!({ "label": "st", "role": "tenant_admin" });
    let (status, key) = http.json("POST", "/v1/tenants/one/api-keys", &body);
    assert_eq!(status, 201, "{key}");
    let key = key["key"].as_str().unwrap();
    try_api(&node, "tenant_admin", key, "\n[parameters]\ntenant = \"one\"\n");
    // It could not get out, and the key is still good.
    assert_eq!(Http::new(node.admin, key).get("/v1/tenants/one").0, 200);
    assert_eq!(http.get("/v1/tenants").1.matches("\"name\"").count(), 1);
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
