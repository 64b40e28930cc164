//! Whole conversations.

use crate::driver::{Connection, check, config};

/// The example of RFC 2033 §4.2. Texts differ, codes do not.
#[test]
fn example_of_rfc_2033_section_4_2() {
    let connection = check(
        Connection::before_lhlo(config()),
        "S: 220 foo.edu LMTP ready
        C: LHLO foo.edu
        S: 250-foo.edu
        S: 250-PIPELINING
        S: 250-ENHANCEDSTATUSCODES
        S: 250-8BITMIME
        S: 250-CHUNKING
        S: 250-SMTPUTF8
        S: 250 SIZE 52428800
        C: MAIL FROM:<chris@bar.com>
        S: 250 2.1.0 sender ok
        C: RCPT TO:<pat@foo.edu>
        S: 250 2.1.5 recipient ok
        C: RCPT TO:<jones@foo.edu>
        S: 550 5.1.1 no such mailbox
        C: RCPT TO:<green@foo.edu>
        S: 250 2.1.5 recipient ok
        C: DATA
        S: 354 end the message with CRLF . CRLF
        C: Blah blah blah...
        C: ...etc. etc. etc.
        C: .
        S: 250 2.0.0 delivered
        S: 452 4.2.2 the mailbox is over quota
        C: QUIT
        S: 221 2.0.0 bye
        ",
    );
    assert_eq!(connection.messages, ["Blah blah blah...\r\n..etc. etc. etc.\r\n"]);
    assert!(connection.closed);
}

/// After the examples of RFC 3030 §4, in LMTP.
#[test]
fn example_after_rfc_3030_section_4() {
    let mut connection = Connection::new(config());
    connection.feed(
        b"MAIL FROM:<Sam@Random.com>\r\nRCPT TO:<Susan@Random.com>\r\nRCPT TO:<later@Random.com>\r\n\
        BDAT 11\r\nTo: Susan\r\nBDAT 20 LAST\r\n\r\nBodyparts.\r\n.\r\n.\r\nMAIL FROM:<>\r\nQUIT\r\n",
    );
    assert_eq!(
        connection.codes(),
        "250 2.1.0, 250 2.1.5, 250 2.1.5, 250 2.0.0, 250 2.0.0, 451 4.3.0, 250 2.1.0, 221 2.0.0"
    );
    // By BDAT a dot is content.
    assert_eq!(connection.messages, ["To: Susan\r\n\r\nBodyparts.\r\n.\r\n.\r\n"]);
}

#[test]
fn one_reply_for_each_accepted_recipient() {
    check(
        Connection::new(config()),
        "C: MAIL FROM:<>
        S: 250 2.1.0 sender ok
        C: RCPT TO:<a@foo.edu>
        S: 250 2.1.5 recipient ok
        C: RCPT TO:<unknown@foo.edu>
        S: 550 5.1.1 no such mailbox
        C: RCPT TO:<later@foo.edu>
        S: 250 2.1.5 recipient ok
        C: RCPT TO:<full@foo.edu>
        S: 452 4.2.2 the mailbox is over quota
        C: RCPT TO:<small@foo.edu>
        S: 552 5.2.3 the message is too large for the mailbox
        C: RCPT TO:<disabled@foo.edu>
        S: 550 5.2.1 the mailbox is disabled
        C: RCPT TO:<suspended@foo.edu>
        S: 450 4.2.1 the mailbox is disabled for now
        C: RCPT TO:<down@foo.edu>
        S: 451 4.3.0 temporary failure, please try again
        C: RCPT TO:<many@foo.edu>
        S: 452 4.5.3 too many recipients
        C: RCPT TO:<removed@foo.edu>
        S: 250 2.1.5 recipient ok
        C: RCPT TO:<spam@foo.edu>
        S: 250 2.1.5 recipient ok
        C: RCPT TO:<a@foo.edu>
        S: 250 2.1.5 recipient ok
        C: DATA
        S: 354 end the message with CRLF . CRLF
        C: a
        C: .
        S: 250 2.0.0 delivered
        S: 451 4.3.0 temporary failure, please try again
        S: 550 5.1.1 no such mailbox
        S: 554 5.7.1 the message is refused
        S: 250 2.0.0 delivered
        ",
    );
}

#[test]
fn several_transactions() {
    let mut connection = Connection::new(config());
    connection.feed(
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\none\r\n.\r\n\
        MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n\
        MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n..two\r\nthree\n.\n\r\n.\r\nQUIT\r\nNOOP\r\n",
    );
    assert!(connection.closed);
    assert_eq!(connection.messages, ["one\r\n", "", ".two\r\nthree\r\n.\r\n\r\n"]);
    assert_eq!(
        connection.codes(),
        format!("{}221 2.0.0", "250 2.1.0, 250 2.1.5, 354, 250 2.0.0, ".repeat(3))
    );
}

/// Ends of DATA that other servers take for one. The mail that is to be smuggled behind it stays content.
#[test]
fn smuggling_fails() {
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\n.\r",
        "\r.\r",
        "\r.\n",
        "\r.\r\n",
        "\r\n.\n",
        "\r\n.\r",
        "\r\0\n.\r\n",
        "\r\n.\r\r\n",
    ] {
        let mut connection = Connection::new(config());
        connection.feed(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
        let smuggled = "MAIL FROM:<admin@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nevil\r\n";
        connection.feed(format!("good{end}{smuggled}.\r\n").as_bytes());
        assert_eq!(connection.messages.len(), 1, "{end:?}");
        assert!(connection.messages[0].ends_with(smuggled), "{end:?}");
        assert_eq!(connection.events.iter().filter(|event| event.starts_with("Mail")).count(), 1, "{end:?}");
    }
}
