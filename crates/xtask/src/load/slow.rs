//! A store far away: a proxy that keeps each reply back for a while.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const CHUNK: usize = 64 * 1024;

/// A proxy on a port of its own, until dropped.
pub(crate) struct Slow {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Slow {
    /// Passes everything on to `server`; each reply is begun `delay` later. One request at a time on a connection,
    /// as HTTP/1.1 clients do.
    pub(crate) async fn start(server: SocketAddr, delay: Duration) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen for the slow store")?;
        let address = listener.local_addr().context("find own port")?;
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that breaks is its client's to notice.
                tokio::spawn(async move { pass(client, server, delay).await.ok() });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, delay: Duration) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut up, mut down) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut asked = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => match read? {
                0 => return Ok(()),
                octets => {
                    asked = true;
                    server.write_all(&up[..octets]).await?;
                }
            },
            read = server.read(&mut down) => match read? {
                0 => return Ok(()),
                octets => {
                    if std::mem::take(&mut asked) {
                        tokio::time::sleep(delay).await;
                    }
                    client.write_all(&down[..octets]).await?;
                }
            },
        }
    }
}
