//! What operators deploy, with the real binary.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::support::{Node, NodeOptions, env, run};

/// The binary asks; gives exit code, standard output, standard error.
fn probe(node: &Node, args: &[&str]) -> (i32, String, String) {
    let output = node.postern().arg("probe").args(args).output().unwrap();
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_configuration_the_chart_renders_is_one_the_binary_accepts() {
    let output = run(Command::new(env("POSTERN_TEST_HELM"))
        .arg(env("POSTERN_TEST_CHART_CHECK"))
        .args(["configs", "--postern"])
        .arg(env("POSTERN_TEST_BIN")));
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(said.contains(", 0 refused"), "{said}");
}

#[test]
fn probe_tells_a_node_that_serves_from_one_that_does_not() {
    let node = Node::start(&NodeOptions::embedded());
    let (ready, pop3, lmtp) =
        (format!("http://{}", node.admin), node.pop3.to_string(), node.lmtp.to_string());
    let all = ["--ready", &ready, "--live", &ready, "--pop3", &pop3, "--lmtp", &lmtp];
    let (code, out, err) = probe(&node, &all);
    assert_eq!((code, out.lines().count()), (0, 4), "{out}{err}");
    // Nothing is there.
    let (code, _, err) = probe(&node, &["--pop3", "127.0.0.1:1"]);
    assert!(code == 1 && err.contains("127.0.0.1:1"), "{err}");
    // Something else is.
    let (code, _, err) = probe(&node, &["--pop3", &lmtp]);
    assert!(code == 1 && err.contains("greets with \"220"), "{err}");
    // Nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let (code, _, err) = probe(&node, &["--lmtp", &addr, "--timeout", "300ms"]);
    assert!(code == 1 && err.contains("no greeting in time"), "{err}");
    // Nothing is asked.
    assert_eq!(probe(&node, &[]).0, 2);
    node.signal(libc::SIGTERM);
    let (code, _, err) = probe(&node, &["--ready", &ready]);
    assert!(code == 1 && (err.contains("503") || err.contains("error sending request")), "{err}");
}

#[test]
fn probe_greets_proxied_listeners_with_a_header() {
    let mut options = NodeOptions::embedded();
    options.extra =
        "[pop3]\nproxy_protocol = \"require\"\n[proxy]\ntrusted_networks = [\"127.0.0.1\"]\n".into();
    let node = Node::start(&options);
    let pop3 = node.pop3.to_string();
    assert_eq!(probe(&node, &["--pop3", &pop3, "--proxy-header"]).0, 0);
    let (code, _, err) = probe(&node, &["--pop3", &pop3, "--timeout", "2s"]);
    assert!(code == 1 && err.contains(&pop3), "{err}");
}

#[test]
fn commands_that_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut commands = BTreeSet::new();
    let mut dirs = vec![root.join("docs"), root.join("helm"), root.join("deploy")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "md" || e == "txt" || e == "sh") {
                let text = fs::read_to_string(&path).unwrap();
                commands.extend(text.split("postern ").skip(1).filter_map(command));
            }
        }
    }
    assert!(commands.len() > 25, "{commands:?}");
    let node = Node::prepare(&NodeOptions::embedded());
    for command in commands {
        let output = node.postern().args(&command).arg("--help").output().unwrap();
        assert!(output.status.success(), "postern {}: there is no such command", command.join(" "));
    }
}

/// What follows `postern ` where that is a command: its name, and that of its subcommands.
fn command(text: &str) -> Option<Vec<String>> {
    let is_name =
        |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
    let line = text.split(['\n', '`', '"', '|', ';', '<']).next().unwrap_or_default();
    let mut words = line.split(' ').take_while(is_name).filter(|word| !word.is_empty());
    let first = words.next()?;
    match first {
        "admin" => {
            let command: Vec<_> = words.take(2).map(str::to_owned).collect();
            // "postern admin mailbox" alone, or with options in between, names no command.
            (command.len() == 2 && command[0] != "completion")
                .then(|| [vec![first.to_owned()], command].concat())
        }
        "serve" | "migrate" | "check-config" | "dev" | "probe" | "version" => Some(vec![first.to_owned()]),
        _ => None,
    }
}

#[test]
fn every_command_has_a_page_and_shells_take_the_completions() {
    let node = Node::prepare(&NodeOptions::embedded());
    let out = node.dir.path().join("pages");
    run(node.postern().arg("pages").arg("--out").arg(&out));
    let page = |name: &str| fs::read_to_string(out.join("man").join(name)).unwrap();
    for name in ["postern.1", "postern-serve.1", "postern-probe.1", "postern-admin-mailbox-import.1"] {
        assert!(page(name).contains(".SH SYNOPSIS"), "{name}");
    }
    assert!(!out.join("man/postern-pages.1").exists(), "what makes pages needs none");
    let bash = out.join("completions/postern.bash");
    run(Command::new("bash").arg("-n").arg(&bash));
    // What a shell would offer after `postern pr`.
    let ask = "source \"$1\"; COMP_WORDS=(postern pr); COMP_CWORD=1; _postern postern pr postern; echo \"${COMPREPLY[@]}\"";
    let output = run(Command::new("bash").args(["-c", ask, "bash"]).arg(&bash));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "probe");
}
