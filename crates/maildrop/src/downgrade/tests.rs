use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(given: &str, expected: &str) {
    check_octets(given.as_bytes(), expected);
}

#[track_caller]
fn check_octets(given: &[u8], expected: &str) {
    let mut out = Vec::new();
    field(given, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

// What these tests expect is in the rows of messages that are stored: it may be added to, and not be changed.

#[test]
fn ascii_is_left_as_it_is() {
    for same in ["Subject: =?x\r\n", "To: a <b@c>,\r\n\td@e\r\n", "\r\n", "no colon\r\n", ": \r\n"] {
        check(same, same);
    }
}

#[test]
fn unstructured_text() {
    check("Subject: Grüße\r\n", "Subject: =?UTF-8?B?R3LDvMOfZQ==?=\r\n");
    check("Subject:ü\r\n", "Subject:=?UTF-8?B?w7w=?=\r\n");
    check(
        "Subject: two grüße und\r\n mehr größe end\r\n",
        "Subject: two =?UTF-8?B?Z3LDvMOfZQ==?= und\r\n mehr =?UTF-8?B?Z3LDtsOfZQ==?= end\r\n",
    );
    // Words that follow each other are told together, with the space between them.
    check("Subject: ä\r\n ö\r\n", "Subject: =?UTF-8?B?w6Qgw7Y=?=\r\n");
    check(
        "Subject: =?utf-8?q?x?= ä =?utf-8?q?y?=\r\n",
        "Subject: =?utf-8?q?x?= =?UTF-8?B?IMOkIA==?= =?utf-8?q?y?=\r\n",
    );
    check(
        &format!("X-Other: {}\r\n", "ä".repeat(60)),
        &format!(
            "X-Other:\r\n =?UTF-8?B?{}?=\r\n =?UTF-8?B?{}?=\r\n =?UTF-8?B?{}?=\r\n",
            "w6TDpMOk".repeat(7) + "w6Q=",
            "w6TDpMOk".repeat(7) + "w6Q=",
            "w6TDpMOk".repeat(5) + "w6Q=",
        ),
    );
    check_octets(b"Subject: gr\xfc\xdfe\r\n", "Subject: =?unknown-8bit?B?Z3L832U=?=\r\n");
    check_octets(b"X-\xfc: gr\xfc\xdfe\r\n", "X-?: gr??e\r\n");
    check_octets(b"gr\xfc\xdfe\r\n", "gr??e\r\n");
    // A line that goes on, with nothing before it, becomes no field.
    check("  Delivered-To: ü\r\n", "  Delivered-To: ??\r\n");
    check("\tTo: ü <ü@x>\r\n", "\tTo: ?? <??@x>\r\n");
}

#[test]
fn addresses_keep_what_can_be_kept() {
    check("From: Jürgen <j@example.org>\r\n", "From: =?UTF-8?B?SsO8cmdlbg==?= <j@example.org>\r\n");
    check("From: \"Jü \\\"x\\\"\" <j@x.org>\r\n", "From: =?UTF-8?B?SsO8ICJ4Ig==?= <j@x.org>\r\n");
    check("From: Jürgen<j@x.org>\r\n", "From: =?UTF-8?B?SsO8cmdlbg==?= <j@x.org>\r\n");
    check("To: j@x.org (Jürgen)\r\n", "To: j@x.org (=?UTF-8?B?SsO8cmdlbg==?=)\r\n");
    check(
        "To: A <a@x.org>, Bä B <b@x.org>,\r\n c@x.org\r\n",
        "To: A <a@x.org>, =?UTF-8?B?QsOk?= B <b@x.org>,\r\n c@x.org\r\n",
    );
    // RFC 6857 §3.1.8
    check("To: <müller@x.org>\r\n", "To: =?UTF-8?B?bcO8bGxlckB4Lm9yZw==?= :;\r\n");
    check("Cc: M <müller@x.org>, b@x.org\r\n", "Cc: M =?UTF-8?B?bcO8bGxlckB4Lm9yZw==?= :;, b@x.org\r\n");
    check("Cc: Ü <ü@x.org>\r\n", "Cc: =?UTF-8?B?w5w=?= =?UTF-8?B?IMO8QHgub3Jn?= :;\r\n");
    check("Cc: müller@x.org, b@x.org\r\n", "Cc: =?UTF-8?B?bcO8bGxlckB4Lm9yZw==?= :;, b@x.org\r\n");
    check("Cc: b@bücher.example\r\n", "Cc: b@xn--bcher-kva.example\r\n");
    check("Cc: B <b@bücher.example>\r\n", "Cc: B <b@xn--bcher-kva.example>\r\n");
    check(
        "To: Grüppe: a@x.org, ü@x.org, b@x.org;, c@x.org\r\n",
        "To: =?UTF-8?B?R3LDvHBwZQ==?= : a@x.org, (=?UTF-8?B?w7xAeC5vcmc=?=), b@x.org;, c@x.org\r\n",
    );
    check_octets(b"From: J\xfcrgen <j@x.org>\r\n", "From: =?unknown-8bit?B?SvxyZ2Vu?= <j@x.org>\r\n");
    check("From: (ü\r\n", "From: (=?UTF-8?B?w7w=?=)\r\n");
}

#[test]
fn mime_parameters() {
    check(
        "Content-Disposition: attachment; filename=\"über.pdf\"; size=3\r\n",
        "Content-Disposition: attachment; filename*=UTF-8''%C3%BCber.pdf; size=3\r\n",
    );
    check(
        "Content-Type: text/plain;\r\n name=a;b\r\n\tname=ü\r\n",
        "Content-Type: text/plain;\r\n name=a;b\r\n\tname=ü\r\n"
            .replace("b\r\n\tname=ü", "b\r\n\tname=??")
            .as_str(),
    );
    check(
        &format!("Content-Type: x/y; name={}.txt\r\n", "ü".repeat(20)),
        &format!(
            "Content-Type: x/y; name*0*=UTF-8''{};\r\n name*1*={};\r\n name*2*={}.txt\r\n",
            "%C3%BC".repeat(9),
            "%C3%BC".repeat(9),
            "%C3%BC".repeat(2),
        ),
    );
    // However many there are, and wherever they were folded, lines stay well under 998 octets (RFC 5322 §2.1.1).
    let mut out = Vec::new();
    field(format!("Content-Type: x/y{}\r\n", "; name=\r\n \"ü\"".repeat(100)).as_bytes(), &mut out);
    let out = String::from_utf8(out).unwrap();
    assert_eq!(out.matches("name*=UTF-8''%C3%BC").count(), 100);
    assert!(out.lines().all(|line| line.len() <= 420), "{out}");
    check_octets(b"Content-Type: \xfc/y; x=\xfc\r\n", "Content-Type: ?/y; x*=unknown-8bit''%FC\r\n");
}

#[test]
fn identifiers_and_traces() {
    check("Message-ID: <ü@x>\r\n", "Downgraded-Message-ID: =?UTF-8?B?PMO8QHg+?=\r\n");
    check("Delivered-To: ü@x.org\r\n", "Downgraded-Delivered-To: =?UTF-8?B?w7xAeC5vcmc=?=\r\n");
    check(
        "Received: from x (möp) by y\r\n with UTF8LMTP for <ü@x>; today\r\n",
        "Received: from x (=?UTF-8?B?bcO2cA==?=) by y\r\n with UTF8LMTP ; today\r\n",
    );
    check("Received: from ü by y for a@b; today\r\n", "Received: from ?? by y for a@b; today\r\n");
}

/// No sender makes much work or many octets of few.
#[test]
fn fields_made_to_grow_are_masked() {
    let grown = |field: String| {
        let mut out = Vec::new();
        super::field(field.as_bytes(), &mut out);
        assert!(out.is_ascii() && out.ends_with(b"\r\n"));
        (field.len(), out.len())
    };
    let long = "n".repeat(30_000);
    let (given, got) = grown(format!("Content-Type: a; {long}={}\r\n", "ü".repeat(15_000)));
    assert_eq!(given, got);
    let (given, got) = grown(format!("Content-Type: a; {}={}\r\n", "n".repeat(64), "ü".repeat(30_000)));
    assert!(got <= 8 * given + 1024, "{given} became {got}");
    let many: String = ('\u{4e00}'..='\u{9fff}').collect();
    let start = std::time::Instant::now();
    let (given, got) = grown(format!("To: <a@{many}>\r\n"));
    assert!(got < 2 * given && start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
    let label = "ü".repeat(63);
    let mut out = Vec::new();
    super::field(format!("To: <a@{label}>, <a@{label}ü>\r\n").as_bytes(), &mut out);
    let out = String::from_utf8(out).unwrap();
    assert!(out.starts_with("To: <a@xn--") && out.ends_with("?= :;\r\n"), "{out}");
}

fn downgraded(message: &[u8], pieces: &[usize]) -> Vec<u8> {
    let (mut downgrade, mut out, mut left) = (Downgrade::default(), Vec::new(), message);
    let mut extra = AsciiExtra::default();
    for piece in pieces {
        let (now, later) = left.split_at((*piece).min(left.len()));
        downgrade.push(now, &mut out);
        extra.push(now);
        left = later;
    }
    downgrade.push(left, &mut out);
    extra.push(left);
    downgrade.finish(&mut out);
    let rewritten = out != message;
    assert_eq!(extra.finish(), rewritten.then(|| out.len() as i64 - message.len() as i64));
    out
}

#[test]
fn the_body_and_its_parts_are_left_as_they_are() {
    let message = "Subject: ü\r\n\r\nSubject: ü\r\n\r\nü\r\n".as_bytes();
    let expected = "Subject: =?UTF-8?B?w7w=?=\r\n\r\nSubject: ü\r\n\r\nü\r\n".as_bytes();
    for split in 0..=message.len() {
        assert_eq!(downgraded(message, &[split]), expected, "split at {split}");
    }
    assert_eq!(downgraded("Subject: ü".as_bytes(), &[]), b"Subject: =?UTF-8?B?w7w=?=");
    assert_eq!(downgraded("\r\nü".as_bytes(), &[]), "\r\nü".as_bytes());
    assert_eq!(downgraded(b"", &[]), b"");
}

#[test]
fn a_field_too_long_to_be_kept_is_masked() {
    let long = format!("X: {}\r\nSubject: ü\r\n\r\nü", "ü\r\n ".repeat(MAX_FIELD_OCTETS / 5));
    let expected =
        format!("X: {}\r\nSubject: =?UTF-8?B?w7w=?=\r\n\r\nü", "??\r\n ".repeat(MAX_FIELD_OCTETS / 5));
    for pieces in [&[][..], &[1, 7, 60_000], &[MAX_FIELD_OCTETS - 1, 1, 1, 1]] {
        assert!(downgraded(long.as_bytes(), pieces) == expected.as_bytes(), "{pieces:?}");
    }
}

/// Lines of a header, whatever they are: canonical messages have no line end but CRLF.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("Subject"),
        Just("From"),
        Just("To"),
        Just("Content-Type"),
        Just("Received"),
        Just("Message-ID"),
        Just(" "),
        Just("X-\u{fc}"),
    ];
    let value = proptest::collection::vec(
        prop_oneof![
            3 => proptest::string::string_regex("[a-z \\t<>@(),:;\"\\\\=?.]{0,12}").unwrap().prop_map(String::into_bytes),
            2 => proptest::string::string_regex("[äöü€𝄞]{1,20}").unwrap().prop_map(String::into_bytes),
            1 => proptest::collection::vec(0x80_u8.., 1..5),
            1 => Just(b"\r\n ".to_vec()),
        ],
        0..8,
    );
    proptest::collection::vec((name, value), 0..6).prop_map(|fields| {
        let mut header = Vec::new();
        for (name, value) in fields {
            header.extend_from_slice(name.as_bytes());
            header.extend_from_slice(b":");
            header.extend_from_slice(&value.concat());
            header.extend_from_slice(b"\r\n");
        }
        header
    })
}

proptest! {
    #[test]
    fn every_header_becomes_ascii_of_short_lines(
        header in header(),
        pieces in proptest::collection::vec(0_usize..40, 0..8),
    ) {
        let body = "\r\nbödy\r\n".as_bytes();
        let message = [&header, body].concat();
        let out = downgraded(&message, &pieces);
        prop_assert_eq!(&out, &downgraded(&message, &[]));
        let rewritten = out.strip_suffix(body).unwrap();
        prop_assert!(rewritten.is_ascii());
        // The same fields in the same order, and none more: no value breaks out of its line.
        let fields = |header: &[u8]| {
            let text = String::from_utf8_lossy(header).into_owned();
            text.split_terminator("\r\n").filter(|line| !line.starts_with([' ', '\t'])).count()
        };
        prop_assert_eq!(fields(rewritten), fields(&header));
        if header.is_ascii() {
            prop_assert_eq!(rewritten, &header[..]);
        }
        let longest = |header: &[u8]| header.split(|&octet| octet == b'\n').map(<[u8]>::len).max().unwrap_or(0);
        prop_assert!(longest(rewritten) <= longest(&header) + 160);
    }
}
