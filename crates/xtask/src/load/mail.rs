//! Real-looking mail, the same in every run: plain text, HTML alternatives, attachments, sizes as people get
//! them (median some 20 KB, mean some 75 KB, one in a hundred over 1 MB).

use std::fmt::Write as _;

const WORDS: &str = "the of and to in is that for it you was on are with as I his they be at one have this from \
    or had by hot but some what there we can out other were all your when up use word how said an each she which \
    do their time if will way about many then them would write like so these her long make thing see him two has \
    look more day could go come did number sound no most people my over know water than call first who may down \
    side been now find any new work part take get place made live where after back little only round man year \
    came show every good me give our under name very through just form much great think say help low line before \
    turn cause same mean differ move right boy old too does tell sentence set three want air well also play small \
    end put home read hand port large spell add even land here must big high such follow act why ask men change \
    meeting invoice project schedule regards attached please review budget quarter customer delivery contract";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Random numbers (SplitMix64), the same for the same seed.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A size between two, small ones as often as large ones of the same proportion.
    fn size(&mut self, from: f64, to: f64) -> usize {
        (from * (to / from).powf(self.unit())) as usize
    }
}

/// The body of a message and the header fields that belong to it; complete but for what [`Mail::message`] adds.
#[derive(Debug)]
pub(crate) struct Mail {
    rest: Vec<u8>,
}

impl Mail {
    /// So many messages as people get them.
    pub(crate) fn realistic(count: usize, seed: u64) -> Vec<Self> {
        let mut random = Random(seed);
        (0..count)
            .map(|_| match random.unit() {
                share if share < 0.40 => plain(&mut random, 2e3, 15e3),
                share if share < 0.80 => alternative(&mut random, 15e3, 60e3),
                share if share < 0.95 => attachment(&mut random, 50e3, 300e3),
                share if share < 0.99 => attachment(&mut random, 300e3, 900e3),
                _ => attachment(&mut random, 1e6, 5e6),
            })
            .collect()
    }

    /// So many messages of one size.
    pub(crate) fn sized(count: usize, octets: usize, seed: u64) -> Vec<Self> {
        let mut random = Random(seed);
        // The header fields that are added, about.
        let size = octets.saturating_sub(270) as f64;
        (0..count).map(|_| plain(&mut random, size, size)).collect()
    }

    /// A message of one attachment of this size.
    pub(crate) fn large(octets: usize, seed: u64) -> Self {
        attachment(&mut Random(seed), octets as f64, octets as f64)
    }

    /// The whole message, unlike any other by its number. No line begins with a dot, so that it needs no
    /// stuffing.
    pub(crate) fn message(&self, number: u64) -> Vec<u8> {
        let header = format!(
            "From: Sender <sender@bench.example>\r\nTo: Reader <reader@bench.test>\r\n\
             Date: Mon, 23 Nov 2026 09:00:00 +0000\r\nSubject: Message {number} of the measurement\r\n\
             Message-ID: <{number}.{:x}@bench.example>\r\nMIME-Version: 1.0\r\n",
            number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
        );
        let mut message = Vec::with_capacity(header.len() + self.rest.len());
        message.extend_from_slice(header.as_bytes());
        message.extend_from_slice(&self.rest);
        message
    }
}

fn plain(random: &mut Random, from: f64, to: f64) -> Mail {
    let size = random.size(from, to);
    let mut rest = String::from("Content-Type: text/plain; charset=utf-8\r\n\r\n");
    prose(random, &mut rest, size, "\r\n");
    Mail { rest: rest.into_bytes() }
}

fn alternative(random: &mut Random, from: f64, to: f64) -> Mail {
    let size = random.size(from, to);
    let mut rest = String::from(
        "Content-Type: multipart/alternative; boundary=\"=_a\"\r\n\r\n--=_a\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\n",
    );
    prose(random, &mut rest, size / 4, "\r\n");
    rest.push_str("--=_a\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html><body>\r\n");
    let end = "</p></td></tr>\r\n<tr><td style=\"font-family: sans-serif; padding: 4px\"><p class=\"text\">";
    prose(random, &mut rest, size * 3 / 4, end);
    rest.push_str("</body></html>\r\n--=_a--\r\n");
    Mail { rest: rest.into_bytes() }
}

fn attachment(random: &mut Random, from: f64, to: f64) -> Mail {
    let size = random.size(from, to);
    let mut rest = String::from(
        "Content-Type: multipart/mixed; boundary=\"=_m\"\r\n\r\n--=_m\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\n",
    );
    prose(random, &mut rest, 1500, "\r\n");
    rest.push_str(
        "--=_m\r\nContent-Type: application/pdf; name=\"report.pdf\"\r\n\
         Content-Disposition: attachment; filename=\"report.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\n",
    );
    let end = rest.len() + size;
    while rest.len() < end {
        // 76 characters a line (RFC 2045 §6.8), ten to a random number.
        let mut bits = 0;
        for column in 0..76 {
            if column % 10 == 0 {
                bits = random.next();
            }
            rest.push(char::from(BASE64[(bits & 63) as usize]));
            bits >>= 6;
        }
        rest.push_str("\r\n");
    }
    rest.push_str("--=_m--\r\n");
    Mail { rest: rest.into_bytes() }
}

/// Words in lines, frequent ones more often, as language has them.
fn prose(random: &mut Random, text: &mut String, octets: usize, line_end: &str) {
    let words: Vec<&str> = WORDS.split_ascii_whitespace().collect();
    let end = text.len() + octets;
    let mut column = 0;
    while text.len() < end {
        let word = words[(words.len() as f64 * random.unit().powi(2)) as usize];
        if column + word.len() > 68 {
            text.push_str(line_end);
            column = 0;
        }
        column += word.len() + 1;
        let _ = write!(text, "{word} ");
    }
    text.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_like_those_of_real_mail() {
        let mut sizes: Vec<usize> =
            Mail::realistic(1000, 1).iter().map(|mail| mail.message(1).len()).collect();
        sizes.sort_unstable();
        let median = sizes[sizes.len() / 2];
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((15_000..28_000).contains(&median), "median {median}");
        assert!((55_000..95_000).contains(&mean), "mean {mean}");
        assert!(sizes.last().is_some_and(|largest| *largest > 1_000_000));
    }

    #[test]
    fn one_size_is_met() {
        for octets in [2000, 20_000] {
            let length = Mail::sized(1, octets, 7)[0].message(3).len();
            assert!(length.abs_diff(octets) < octets / 10, "{length} for {octets}");
        }
    }

    #[test]
    fn no_line_needs_stuffing_or_is_too_long() {
        for mail in Mail::realistic(50, 2) {
            let message = mail.message(9);
            assert!(message.ends_with(b"\r\n"));
            for line in message.split_inclusive(|octet| *octet == b'\n') {
                assert!(line.ends_with(b"\r\n") && !line.starts_with(b".") && line.len() < 998);
            }
        }
    }
}
