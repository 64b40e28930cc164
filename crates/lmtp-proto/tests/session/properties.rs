//! Properties: splits do not matter, nothing panics, nothing grows.

use lmtp_proto::Config;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::driver::{Connection, config};

/// Octets a client might send: mostly transactions, some of them odd.
fn client_input() -> impl Strategy<Value = Vec<u8>> {
    let known: &'static [&'static str] = &[
        "LHLO a\r\n",
        "MAIL FROM:<a@b>\r\n",
        "MAIL FROM:<> SIZE=10 BODY=8BITMIME SMTPUTF8\r\n",
        "MAIL FROM:<å@b>\r\n",
        "RCPT TO:<c@d>\r\n",
        "RCPT TO:<c@d>\r\nRCPT TO:<later@d>\r\n",
        "RCPT TO:<unknown@d>\r\n",
        "DATA\r\n",
        "DATA\r\nSubject: a\r\n\r\n..b\r\n.\r\n",
        ".\r\n",
        "\r\n.\r\n",
        "BDAT 3\r\na\r\n",
        "BDAT 2\r\nb\r",
        "BDAT 4 LAST\r\n\nc\r\n",
        "BDAT 0 LAST\r\n",
        "BDAT 40 LAST\r\nan octet too many for the small bound..",
        "RSET\r\n",
        "NOOP\r\n",
        "VRFY a\r\n",
        "QUIT\r\n",
        "WHAT\r\n",
        "\n",
        "BDAT x\r\n",
    ];
    let frequent: &'static [&'static str] =
        &["MAIL FROM:<a@b>\r\n", "RCPT TO:<c@d>\r\n", "DATA\r\n", ".\r\n"];
    let part = prop_oneof![
        10 => proptest::sample::select(known).prop_map(|text| text.as_bytes().to_vec()),
        10 => proptest::sample::select(frequent).prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..40),
        1 => (4_080_usize..4_110).prop_map(|octets| [vec![b'x'; octets], b"\r\n".to_vec()].concat()),
    ];
    vec(part, 0..40).prop_map(|parts| parts.concat())
}

fn run(config: Config, input: &[u8], sizes: &[usize]) -> Connection {
    let mut connection = Connection::new(config);
    let mut rest = input;
    for &size in sizes.iter().cycle() {
        let (piece, next) = rest.split_at(size.min(rest.len()));
        connection.feed(piece);
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    connection
}

fn configs() -> impl Strategy<Value = Config> {
    prop_oneof![Just(config()), Just(Config { max_message_octets: 20, max_recipients: 1, ..config() })]
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(1_usize..40, 1..9)
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events_and_octets(
        config in configs(), input in client_input(), sizes in sizes(),
    ) {
        let whole = run(config.clone(), &input, &[usize::MAX]);
        let split = run(config, &input, &sizes);
        prop_assert_eq!(String::from_utf8_lossy(&whole.out), String::from_utf8_lossy(&split.out));
        prop_assert_eq!(whole.events, split.events);
        prop_assert_eq!(whole.closed, split.closed);
    }

    #[test]
    fn any_octets(config in configs(), input in vec(any::<u8>(), 0..2_000), sizes in sizes()) {
        run(config, &input, &sizes);
    }

    /// Any content, dot-stuffed by a client that does it right, arrives whole, in canonical form.
    #[test]
    fn content_arrives(parts in vec("\\PC{0,6}|\r\n|\n|\r|\\.|\r\n\\.", 0..20), sizes in sizes(), chunked: bool) {
        let mut content = parts.concat();
        // By DATA the message has to end in CRLF; by BDAT it need not.
        if !chunked && !content.is_empty() && !content.ends_with("\r\n") {
            content.push_str("\r\n");
        }
        let mut expected = String::new();
        for character in content.chars() {
            if character == '\n' && !expected.ends_with('\r') {
                expected.push('\r');
            }
            expected.push(character);
        }
        let mut input = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n".to_vec();
        if chunked {
            let (first, last) = content.as_bytes().split_at(content.len() / 2);
            for (octets, last) in [(first, ""), (last, " LAST")] {
                input.extend_from_slice(format!("BDAT {}{last}\r\n", octets.len()).as_bytes());
                input.extend_from_slice(octets);
            }
        } else {
            let stuffed = content.replace("\r\n.", "\r\n..");
            let stuffed = if stuffed.starts_with('.') { format!(".{stuffed}") } else { stuffed };
            input.extend_from_slice(format!("DATA\r\n{stuffed}.\r\n").as_bytes());
        }
        if !expected.is_empty() && !expected.ends_with("\r\n") {
            expected.push_str("\r\n");
        }
        let connection = run(config(), &input, &sizes);
        prop_assert_eq!(connection.messages, [expected]);
    }
}
