//! Many mailboxes in one request stream. `POSTERN_TEST_BULK_LINES` says how many (10,000 for figures).

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Instant,
};

use crate::support::{Node, NodeOptions, env};

fn lines_wanted() -> usize {
    std::env::var("POSTERN_TEST_BULK_LINES").map_or(300, |lines| lines.parse().unwrap())
}

/// The most memory the node has held, in KiB.
fn peak_kib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_stream_of_mailboxes_is_created_in_bounded_memory() {
    let node = Node::start(&NodeOptions::servers());
    node.tenant("one");
    let wanted = lines_wanted();
    let before = peak_kib(&node);
    let start = Instant::now();
    let mut stream = TcpStream::connect(node.admin).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let token = std::fs::read_to_string(node.dir.path().join("admin-token")).unwrap();
    let sender = std::thread::spawn(move || {
        let head = format!(
            "POST /v1/tenants/one/mailboxes/bulk HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nContent-Type: application/x-ndjson\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        for number in 0..wanted {
            let line = format!("{{\"address\":\"m{number:06}@one.test\",\"password\":\"pw{number}\"}}\n");
            stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        stream
    });
    let (mut line, mut created, mut first) = (String::new(), 0, None);
    while answers.read_line(&mut line).unwrap() > 0 {
        if line.starts_with("{\"line\"") {
            created += 1;
            assert!(
                line.contains(&format!("\"line\":{created},")) && line.contains("\"status\":201"),
                "{line}"
            );
            first.get_or_insert_with(|| start.elapsed());
        }
        line.clear();
    }
    sender.join().unwrap();
    let (elapsed, peak) = (start.elapsed(), peak_kib(&node));
    assert_eq!(created, wanted);
    println!(
        "bulk: {wanted} mailboxes in {:.1} s, {:.0} lines/s, the first answer after {} ms, peak RSS {} MiB (idle {} MiB)",
        elapsed.as_secs_f64(),
        wanted as f64 / elapsed.as_secs_f64(),
        first.unwrap().as_millis(),
        peak / 1024,
        before / 1024,
    );
    assert!(peak - before < 64 * 1024, "from {before} to {peak} KiB");
    let (_, usage) = node.http().get("/v1/tenants/one/usage");
    assert!(usage.contains(&format!("\"mailboxes\":{wanted}")), "{usage}");
    crate::support::login(node.pop3, "m000007@one.test", "pw7").ok("QUIT");
}

#[test]
fn the_command_line_imports_files_and_says_what_failed() {
    let node = Node::start(&NodeOptions::embedded());
    node.tenant("one");
    let mut text = String::from("address,password,quota_octets\n");
    for number in 0..120 {
        writeln!(text, "c{number}@one.test,pw{number},1000000").unwrap();
    }
    text += "c5@one.test,again,\nbad@two.test,x,\nd@one.test,x,many\n";
    let file = node.dir.path().join("mailboxes.csv");
    std::fs::write(&file, &text).unwrap();
    let mut admin = Command::new(env("POSTERN_TEST_BIN"));
    admin.args(["admin", "--url", &format!("http://{}", node.admin), "--token-file"]);
    admin.arg(node.dir.path().join("admin-token")).args(["mailbox", "import", "one", "--json"]).arg(&file);
    let output = admin.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}\n{err}");
    let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((summary["created"].as_u64(), summary["failed"].as_u64()), (Some(120), Some(3)), "{err}");
    for failed in ["line 122: c5@one.test: 409", "line 123: bad@two.test: 409", "line 124: quota_octets"] {
        assert!(err.contains(failed), "{err}");
    }
    crate::support::login(node.pop3, "c7@one.test", "pw7").ok("QUIT");
}
