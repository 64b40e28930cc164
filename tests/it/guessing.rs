//! Guessing at passwords, and what it costs whom.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{Node, NodeOptions, Pop3, env, login, run};

/// How long the answer to a wrong password takes.
fn guess(node: &Node, user: &str) -> Duration {
    let mut pop3 = Pop3::connect(node.pop3).unwrap();
    pop3.ok(&format!("USER {user}"));
    let start = Instant::now();
    assert!(pop3.err("PASS wrong").starts_with("-ERR [AUTH]"));
    start.elapsed()
}

#[test]
fn guessers_wait_on_every_node_and_owners_do_not() {
    let stores = crate::support::Stores::servers();
    let options = || NodeOptions { failure_delay: ("200ms", "2s"), ..NodeOptions::on(&stores) };
    let (one, a) = Node::start(&options()).with_mailbox("a");
    let two = Node::start(&options());
    let ms = Duration::from_millis;
    // Whether there is such a mailbox or not.
    for (user, delays) in [(a.as_str(), [200, 400, 800]), ("nobody@one.test", [1600, 2000, 2000])] {
        for delay in delays {
            let took = guess(&one, user);
            // While it waits, what failed before is worth a little less.
            let expected = ms(delay * 9 / 10)..ms(delay + 700);
            assert!(expected.contains(&took), "{user}: {took:?}, not {delay} ms");
        }
    }
    // The right password has its answer at once, in the middle of all that.
    let start = Instant::now();
    login(one.pop3, &a, "pw").ok("QUIT");
    assert!(start.elapsed() < ms(200), "{:?}", start.elapsed());
    // Another node hears of the source, and of the account's good one.
    std::thread::sleep(Duration::from_secs(5));
    let took = guess(&two, "nobody@one.test");
    assert!((ms(1500)..ms(2700)).contains(&took), "{took:?}");
    for _ in 0..2 {
        let took = guess(&two, &a);
        assert!((ms(200)..ms(400)).contains(&took), "a known source waits for its own mistakes: {took:?}");
    }
    let (_, metrics) = one.http().get("/metrics");
    let delayed = |by: &str| {
        let series = format!("pop3_login_delays_total{{by=\"{by}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((delayed("account"), delayed("source")), (3, 3));
}

#[test]
fn fail2ban_reads_the_log() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    for user in [a.as_str(), "x\",\"peer\":\"192.0.2.1\",\"protocol\":\"pop3\",\"y@one.test"] {
        guess(&node, user);
    }
    login(node.pop3, &a, "pw").ok("QUIT");
    let log = node.dir.path().join("postern.log");
    fs::write(&log, node.log()).unwrap();
    let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/fail2ban/filter.d/postern.conf");
    let found = run(Command::new("fail2ban-regex").args(["--out", "ip"]).arg(&log).arg(filter)).stdout;
    assert_eq!(String::from_utf8(found).unwrap().split_whitespace().collect::<Vec<_>>(), ["127.0.0.1"; 2]);
}

/// CrowdSec reads the samples, and bans who guesses; a name cannot pass for an address.
#[test]
fn crowdsec_reads_the_log_and_bans_who_guesses() {
    let (node, a) = Node::start(&NodeOptions::embedded()).with_mailbox("a");
    let crowdsec = Path::new(&env("POSTERN_TEST_CROWDSEC")).to_owned();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let replay = |name: &str| {
        let log = at(&format!("{name}.json"));
        fs::write(&log, node.log()).unwrap();
        let mut replay = Command::new(crowdsec.join("usr/bin/crowdsec"));
        replay.arg("-c").arg(at("config.yaml")).args(["-type", "postern", "-dsn"]);
        let output = run(replay.arg(format!("file://{}", log.display())));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    prepare_crowdsec(&crowdsec, dir.path());
    for _ in 0..3 {
        guess(&node, &a);
    }
    login(node.pop3, &a, "pw").ok("QUIT");
    let said = replay("few");
    assert!(!said.contains("ban on Ip"), "{said}");
    for _ in 0..4 {
        guess(&node, "x\",\"peer\":\"192.0.2.1\",\"outcome\":\"y@one.test");
    }
    let said = replay("many");
    assert!(said.contains("postern/postern-bf by ip 127.0.0.1 : 4h ban on Ip 127.0.0.1"), "{said}");
    assert!(!said.contains("192.0.2.1"), "{said}");
}

/// A configuration with the samples, the parsers that come with the package, and nothing from elsewhere.
fn prepare_crowdsec(package: &Path, dir: &Path) {
    let [port] = xtask::services::free_ports().unwrap();
    let copy = |from: &Path, to: &str| {
        fs::create_dir_all(dir.join(to)).unwrap();
        let mut cp = Command::new("cp");
        run(cp.args(["-r", "--no-target-directory"]).arg(from).arg(dir.join(to)));
    };
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crowdsec");
    let hub = package.join("usr/share/crowdsec/hub/parsers");
    copy(&hub.join("s00-raw/crowdsecurity"), "parsers/s00-raw");
    copy(&samples.join("parsers/s01-parse"), "parsers/s01-parse");
    copy(&samples.join("scenarios"), "scenarios");
    copy(&package.join("etc/crowdsec/patterns"), "patterns");
    for name in ["data", "hub", "notifications", "plugins", "parsers/s02-enrich"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let dates = "s02-enrich/crowdsecurity/dateparse-enrich.yaml";
    fs::copy(hub.join(dates), dir.join("parsers/s02-enrich/dateparse-enrich.yaml")).unwrap();
    for name in ["profiles.yaml", "simulation.yaml"] {
        fs::copy(package.join("etc/crowdsec").join(name), dir.join(name)).unwrap();
    }
    let none = r#"{"parsers":{},"scenarios":{},"collections":{},"postoverflows":{}}"#;
    fs::write(dir.join("hub/.index.json"), none).unwrap();
    fs::write(dir.join("acquis.yaml"), "").unwrap();
    fs::write(dir.join("credentials.yaml"), "").unwrap();
    let config = format!(
        "common: {{daemonize: false, log_media: stdout, log_level: info}}\n\
         config_paths: {{config_dir: {dir}/, data_dir: {dir}/data/, simulation_path: {dir}/simulation.yaml,\n\
         \x20 hub_dir: {dir}/hub/, index_path: {dir}/hub/.index.json, notification_dir: {dir}/notifications/,\n\
         \x20 plugin_dir: {dir}/plugins/}}\n\
         crowdsec_service: {{acquisition_path: {dir}/acquis.yaml, parser_routines: 1}}\n\
         cscli: {{output: human}}\n\
         db_config: {{type: sqlite, db_path: {dir}/data/crowdsec.db}}\n\
         plugin_config: {{user: nobody, group: nogroup}}\n\
         api:\n  client: {{credentials_path: {dir}/credentials.yaml}}\n\
         \x20 server: {{listen_uri: '127.0.0.1:{port}', profiles_path: {dir}/profiles.yaml}}\n\
         prometheus: {{enabled: false}}\n",
        dir = dir.display(),
    );
    fs::write(dir.join("config.yaml"), config).unwrap();
    let mut register = Command::new(package.join("usr/bin/cscli"));
    register.arg("-c").arg(dir.join("config.yaml")).args(["machines", "add", "test", "--auto", "--file"]);
    run(register.arg(dir.join("credentials.yaml")));
}
