//! The demo mail. Line ends are turned into CRLF when it is delivered.

/// Three messages: plain, with an attachment, and one that tries byte-stuffing.
pub(super) const DEMO: [&str; 3] = [
    "From: Postern <postern@demo.test>
To: alice@demo.test
Subject: Welcome to Postern
Date: Mon, 23 Nov 2026 09:00:00 +0000
Message-ID: <welcome@demo.test>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8

Hello Alice,

this message came out of a sealed pack, by way of a row in the index,
over POP3. Delete it, say QUIT, and it is gone; hang up instead, and it
is still here.
",
    "From: Postern <postern@demo.test>
To: alice@demo.test
Subject: A message with an attachment
Date: Mon, 23 Nov 2026 09:01:00 +0000
Message-ID: <attachment@demo.test>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=\"=-postern-demo\"

--=-postern-demo
Content-Type: text/plain; charset=utf-8

The attachment says hello.

--=-postern-demo
Content-Type: text/plain; name=\"hello.txt\"
Content-Disposition: attachment; filename=\"hello.txt\"
Content-Transfer-Encoding: base64

SGVsbG8gZnJvbSBQb3N0ZXJuIQo=

--=-postern-demo--
",
    "From: Postern <postern@demo.test>
To: alice@demo.test
Subject: Lines that begin with dots
Date: Mon, 23 Nov 2026 09:02:00 +0000
Message-ID: <dots@demo.test>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8

The next lines begin with dots, and arrive as they are:
.
..
...and that was all.
",
];
