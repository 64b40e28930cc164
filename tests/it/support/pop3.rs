//! A POP3 client that shows what was really sent.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

/// A connection, encrypted or not.
pub(crate) trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

pub(crate) struct Pop3 {
    stream: BufReader<Box<dyn Duplex>>,
    pub(crate) greeting: String,
}

impl Pop3 {
    pub(crate) fn connect(addr: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        Self::over(Box::new(stream))
    }

    pub(crate) fn over(stream: Box<dyn Duplex>) -> std::io::Result<Self> {
        let mut pop3 = Self { stream: BufReader::new(stream), greeting: String::new() };
        pop3.greeting = pop3.line()?;
        Ok(pop3)
    }

    pub(crate) fn send(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(octets)?;
        self.stream.get_mut().flush()
    }

    /// The next line, without its line end.
    pub(crate) fn line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        if self.stream.read_until(b'\n', &mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        assert!(line.ends_with(b"\r\n"), "a line without CRLF: {:?}", String::from_utf8_lossy(&line));
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Sends a command and reads its first line.
    pub(crate) fn command(&mut self, command: &str) -> std::io::Result<String> {
        self.send(format!("{command}\r\n").as_bytes())?;
        self.line()
    }

    /// Sends a command whose reply must be good.
    #[track_caller]
    pub(crate) fn ok(&mut self, command: &str) -> String {
        let reply = self.command(command).unwrap();
        assert!(reply.starts_with("+OK"), "{command}: {reply}");
        reply
    }

    /// Sends a command that must be refused.
    #[track_caller]
    pub(crate) fn err(&mut self, command: &str) -> String {
        let reply = self.command(command).unwrap();
        assert!(reply.starts_with("-ERR"), "{command}: {reply}");
        reply
    }

    /// The lines after the first of a multi-line reply, as they came, up to the termination octets.
    pub(crate) fn body(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let start = body.len();
            if self.stream.read_until(b'\n', &mut body)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if &body[start..] == b".\r\n" {
                body.truncate(start);
                return Ok(body);
            }
        }
    }

    /// The lines of a listing.
    #[track_caller]
    pub(crate) fn list(&mut self, command: &str) -> Vec<String> {
        self.ok(command);
        let body = self.body().unwrap();
        String::from_utf8(body).unwrap().lines().map(str::to_owned).collect()
    }

    /// A message as it was before byte-stuffing.
    #[track_caller]
    pub(crate) fn retr(&mut self, number: usize) -> Vec<u8> {
        self.ok(&format!("RETR {number}"));
        unstuffed(&self.body().unwrap())
    }

    /// Everything up to the end of the stream.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        rest
    }
}

/// Undoes byte-stuffing.
pub(crate) fn unstuffed(body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(body.len());
    for line in body.split_inclusive(|b| *b == b'\n') {
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    message
}

/// A connection from an address of this machine.
pub(crate) fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Connects and logs in.
#[track_caller]
pub(crate) fn login(addr: SocketAddr, user: &str, password: &str) -> Pop3 {
    let mut pop3 = Pop3::connect(addr).unwrap();
    pop3.ok(&format!("USER {user}"));
    pop3.ok(&format!("PASS {password}"));
    pop3
}
