//! Sockets that a supervisor opened before it started us, `sd_listen_fds(3)`: it listens while nodes are replaced, so that nobody
//! is refused meanwhile, and it may open ports that we must not.
//!
//! They are known by their addresses: what is configured to be listened on is taken from here where it is there, and bound
//! otherwise. One that nobody is configured for is an error, for its clients would wait for ever.

use std::{net::TcpListener, os::unix::net::UnixListener};

use frontend::{Bound, ListenAddr};
use listenfd::ListenFd;

use crate::config::ConfigError;

/// What was handed over and not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<(ListenAddr, Socket)>);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Inherited {
    /// What `LISTEN_FDS` tells of. It is there once: a second call gets nothing.
    pub(crate) fn take() -> Result<Self, ConfigError> {
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for place in 0..handed.len() {
            let wrong =
                |problem: String| ConfigError::new("LISTEN_FDS", format!("socket {place}: {problem}"));
            // What is no TCP socket stays where it is, and is tried as the other kind.
            if let Ok(Some(listener)) = handed.take_tcp_listener(place) {
                let addr = listener.local_addr().map_err(|error| wrong(error.to_string()))?;
                sockets.push((ListenAddr::Tcp(addr), Socket::Tcp(listener)));
                continue;
            }
            let listener = handed.take_unix_listener(place).ok().flatten();
            let listener =
                listener.ok_or_else(|| wrong("is neither TCP nor Unix, or does not listen".into()))?;
            let addr = listener.local_addr().map_err(|error| wrong(error.to_string()))?;
            let path = addr.as_pathname().ok_or_else(|| wrong("has no path".into()))?;
            sockets.push((ListenAddr::Unix(path.to_owned()), Socket::Unix(listener)));
        }
        Ok(Self(sockets))
    }

    /// The socket at this address, for a mail listener.
    pub(crate) fn mail(&mut self, addr: &ListenAddr) -> std::io::Result<Option<Bound>> {
        self.remove(addr)
            .map(|(addr, socket)| match (addr, socket) {
                (ListenAddr::Unix(path), Socket::Unix(listener)) => Bound::from_unix(listener, path),
                (_, Socket::Tcp(listener)) => Bound::from_tcp(listener),
                (ListenAddr::Tcp(_), Socket::Unix(_)) => Err(std::io::ErrorKind::Unsupported.into()),
            })
            .transpose()
    }

    /// The socket at this address, for the admin API.
    pub(crate) fn admin(&mut self, addr: &ListenAddr) -> std::io::Result<Option<tokio::net::TcpListener>> {
        let Some((_, Socket::Tcp(listener))) = self.remove(addr) else { return Ok(None) };
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener).map(Some)
    }

    fn remove(&mut self, addr: &ListenAddr) -> Option<(ListenAddr, Socket)> {
        let place = self.0.iter().position(|(own, _)| own == addr)?;
        Some(self.0.swap_remove(place))
    }

    /// That everything was taken.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match self.0.first() {
            None => Ok(()),
            Some((addr, _)) => Err(ConfigError::new(
                "LISTEN_FDS",
                format!("a socket at {addr:?} was handed over, and nothing is configured to listen there"),
            )),
        }
    }
}
