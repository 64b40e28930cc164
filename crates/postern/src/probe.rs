//! `postern probe`: whether a node, or the balancer in front of nodes, answers as it should.
//!
//! An image without a shell has nothing else to ask with: health checks of containers and the chart's test use this.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpStream, UnixStream},
};

use crate::cli::say;

/// Longest greeting (RFC 1939 §3 allows 512 octets).
const GREETING_OCTETS: u64 = 1024;

/// What to ask.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whom").required(true).multiple(true).args(["ready", "live", "pop3", "lmtp"]))]
pub(crate) struct ProbeArgs {
    /// The admin listener, http://HOST:PORT: `/readyz` must say 200
    #[arg(long, value_name = "URL")]
    ready: Option<String>,
    /// The admin listener, http://HOST:PORT: `/livez` must say 200
    #[arg(long, value_name = "URL")]
    live: Option<String>,
    /// A POP3 listener, HOST:PORT or unix:PATH: must greet
    #[arg(long, value_name = "ADDR")]
    pop3: Vec<String>,
    /// An LMTP listener, HOST:PORT or unix:PATH: must greet
    #[arg(long, value_name = "ADDR")]
    lmtp: Vec<String>,
    /// Begin connections to POP3 and LMTP with a PROXY header, for listeners that require one
    #[arg(long)]
    proxy_header: bool,
    /// Longest time for each answer
    #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Asks everything that was named; the first that does not answer well is the error.
pub(crate) async fn run(args: &ProbeArgs) -> anyhow::Result<()> {
    for (base, path) in [(&args.ready, "/readyz"), (&args.live, "/livez")] {
        if let Some(base) = base {
            let url = format!("{}{path}", base.trim_end_matches('/'));
            status(&url, args.timeout).await.with_context(|| url.clone())?;
            say(&format!("{url}: ok"));
        }
    }
    for (addrs, wanted) in [(&args.pop3, "+OK"), (&args.lmtp, "220")] {
        for addr in addrs {
            let greeted = tokio::time::timeout(args.timeout, greet(addr, args.proxy_header)).await;
            let greeting = greeted
                .map_err(|_| anyhow::anyhow!("no greeting in time"))
                .flatten()
                .context(addr.clone())?;
            if !greeting.starts_with(wanted) {
                bail!("{addr}: greets with {:?}", greeting.trim_end());
            }
            say(&format!("{addr}: ok"));
        }
    }
    Ok(())
}

async fn status(url: &str, timeout: Duration) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(timeout).no_proxy().build()?;
    let answer = client.get(url).send().await?;
    let status = answer.status();
    if !status.is_success() {
        let said = answer.text().await.unwrap_or_default();
        bail!("{status}: {}", said.trim_end().replace('\n', ", "));
    }
    Ok(())
}

async fn greet(addr: &str, proxy_header: bool) -> anyhow::Result<String> {
    match addr.strip_prefix("unix:") {
        Some(path) => greeting(UnixStream::connect(path).await?, false).await,
        None => greeting(TcpStream::connect(addr).await?, proxy_header).await,
    }
}

async fn greeting(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    proxy_header: bool,
) -> anyhow::Result<String> {
    if proxy_header {
        stream.write_all(b"PROXY UNKNOWN\r\n").await?;
    }
    let mut reader = BufReader::new(stream).take(GREETING_OCTETS);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        bail!("closed without a greeting");
    }
    // In order: a session that says QUIT is no client that has gone.
    let _ = reader.get_mut().get_mut().write_all(b"QUIT\r\n").await;
    let _ = reader.read_until(b'\n', &mut Vec::new()).await;
    Ok(String::from_utf8_lossy(&line).into_owned())
}
