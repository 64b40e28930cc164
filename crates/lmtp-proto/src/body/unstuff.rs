//! The end of DATA, and dots that are not content (RFC 5321 §4.5.2).

use memchr::memmem::Finder;

/// Finds the end of a message and takes out the dots the client doubled.
///
/// A line begins at the start of the message and after CRLF, nowhere else, and only `.` CRLF on a line of its
/// own ends the message (RFC 5321 §4.1.1.4, §2.3.8). `LF . LF`, `LF . CRLF`, `CR . CR` and their like are content;
/// to a server that takes one for the end, mail can be smuggled past the server before it.
#[derive(Debug)]
pub(crate) struct Unstuffer {
    line_start_dot: Finder<'static>,
    place: Place,
}

/// What came before the next octet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// CRLF, or nothing yet.
    LineStart,
    /// A dot that began the line and is withheld.
    Dot,
    /// Such a dot and a CR, both withheld.
    DotCr,
    /// A CR.
    Cr,
    /// Anything else.
    Within,
}

/// How far [`Unstuffer::push`] got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unstuffed {
    /// The octets used up: all of the chunk, or up to the end of the message.
    pub(crate) consumed: usize,
    /// Whether the message ended.
    pub(crate) ended: bool,
}

impl Unstuffer {
    pub(crate) fn new() -> Self {
        Self { line_start_dot: Finder::new(b"\r\n."), place: Place::LineStart }
    }

    /// Hands the content of `chunk` to `content`, in long runs.
    pub(crate) fn push(&mut self, chunk: &[u8], mut content: impl FnMut(&[u8])) -> Unstuffed {
        let mut at = 0;
        while let Some(&octet) = chunk.get(at) {
            match (self.place, octet) {
                (Place::LineStart, b'.') => {
                    self.place = Place::Dot;
                    at += 1;
                }
                (Place::Dot, b'\r') => {
                    self.place = Place::DotCr;
                    at += 1;
                }
                (Place::DotCr, b'\n') => return Unstuffed { consumed: at + 1, ended: true },
                // The line has more than the dot, so the dot is not content.
                (Place::DotCr, _) => {
                    content(b"\r");
                    self.place = Place::Cr;
                }
                (Place::Cr, b'\n') => {
                    content(b"\n");
                    self.place = Place::LineStart;
                    at += 1;
                }
                (Place::LineStart | Place::Dot | Place::Cr | Place::Within, _) => {
                    let run = self.run(&chunk[at..]);
                    content(&chunk[at..at + run]);
                    at += run;
                }
            }
        }
        Unstuffed { consumed: chunk.len(), ended: false }
    }

    /// The length of what can be handed on as it is: up to the next line that begins with a dot, or all of
    /// `rest`, which is not empty and begins within a line.
    fn run(&mut self, rest: &[u8]) -> usize {
        if let Some(line_end) = self.line_start_dot.find(rest) {
            self.place = Place::LineStart;
            return line_end + 2;
        }
        self.place = match rest {
            [.., b'\r', b'\n'] => Place::LineStart,
            [.., b'\r'] => Place::Cr,
            _ => Place::Within,
        };
        rest.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The content and, if the message ended, what is behind it.
    fn unstuffed(octets: &[u8], size: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut unstuffer, mut content, mut at) = (Unstuffer::new(), Vec::new(), 0);
        for chunk in octets.chunks(size) {
            let Unstuffed { consumed, ended } = unstuffer.push(chunk, |run| content.extend_from_slice(run));
            at += consumed;
            if ended {
                return (content, Some(octets[at..].to_vec()));
            }
        }
        (content, None)
    }

    #[track_caller]
    fn check(octets: &str, content: &str, behind: Option<&str>) {
        for size in [1, 2, 3, octets.len().max(1)] {
            let (actual, rest) = unstuffed(octets.as_bytes(), size);
            assert_eq!(String::from_utf8_lossy(&actual), content, "in chunks of {size}");
            assert_eq!(rest.map(|rest| String::from_utf8(rest).unwrap()).as_deref(), behind);
        }
    }

    #[test]
    fn the_end() {
        check(".\r\n", "", Some(""));
        check("a\r\n.\r\nQUIT\r\n", "a\r\n", Some("QUIT\r\n"));
        check("\r\n.\r\n.\r\n", "\r\n", Some(".\r\n"));
        check("a\r\n.\r", "a\r\n", None);
        check("a\r\n", "a\r\n", None);
    }

    #[test]
    fn doubled_dots() {
        check("..\r\n.\r\n", ".\r\n", Some(""));
        check("a\r\n..b\r\n...\r\n.\r\n", "a\r\n.b\r\n..\r\n", Some(""));
        check("a..b\r\n.\r\n", "a..b\r\n", Some(""));
        check(".a\r\n.b\r\n.\r\n", "a\r\nb\r\n", Some(""));
    }

    /// Ends that other servers were seen to take, each a way to smuggle mail; content here.
    #[test]
    fn smuggled_ends_are_content() {
        for end in [
            "\n.\n",
            "\n.\r\n",
            "\n.\r",
            "\r.\r",
            "\r.\n",
            "\r.\r\n",
            "\r\r.\r\n",
            "\r\0\n.\r\n",
            "\r\n\0.\r\n",
        ] {
            let octets = format!("a{end}MAIL FROM:<>\r\n.\r\n");
            check(&octets, &format!("a{end}MAIL FROM:<>\r\n"), Some(""));
        }
        // Here a line does begin with a dot, and only the dot goes.
        for (end, content) in [("\r\n.\n", "\r\n\n"), ("\r\n.\r", "\r\n\r"), ("\r\n.\r\r\n", "\r\n\r\r\n")] {
            let octets = format!("a{end}MAIL FROM:<>\r\n.\r\n");
            check(&octets, &format!("a{content}MAIL FROM:<>\r\n"), Some(""));
        }
    }

    fn model(octets: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut content, mut rest): (Vec<u8>, _) = (Vec::new(), octets);
        let mut line_start = true;
        while let Some((&octet, next)) = rest.split_first() {
            if line_start && rest.starts_with(b".\r\n") {
                return (content, Some(rest[3..].to_vec()));
            }
            // At the very end it is not known yet whether the dot is content or the end.
            if line_start && (rest == b"." || rest == b".\r") {
                return (content, None);
            }
            if !(line_start && octet == b'.') {
                content.push(octet);
            }
            line_start = !(line_start && octet == b'.') && content.ends_with(b"\r\n");
            rest = next;
        }
        (content, None)
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(
            parts in vec(proptest::sample::select(["\r", "\n", "\r\n", ".", "\r\n.", "a"].as_slice()), 0..30),
            size in 1_usize..9,
        ) {
            let octets = parts.concat().into_bytes();
            prop_assert_eq!(unstuffed(&octets, size), model(&octets));
        }
    }
}
