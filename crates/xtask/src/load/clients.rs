//! What clients of a POP3 and LMTP server do.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc, time::Instant};

use anyhow::{Context as _, bail};

use super::{
    drive::{Budget, Tally},
    mail::Mail,
    tls::Identity,
    wire::{Wire, tcp},
};
use crate::node::{PASSWORD, Ports, address};

/// How to reach a server's POP3.
#[derive(Clone)]
pub(crate) enum Door {
    Plain(SocketAddr),
    Tls(SocketAddr, Identity),
}

impl Door {
    /// Connects and reads the greeting.
    pub(crate) async fn enter(&self, source: Option<SocketAddr>) -> anyhow::Result<Wire> {
        let mut wire = match self {
            Self::Plain(address) => Wire::new(tcp(*address, source).await?),
            Self::Tls(address, identity) => identity.connect(*address, source).await?,
        };
        wire.expect("+OK").await.context("greeting")?;
        Ok(wire)
    }

    /// Connects and logs in.
    pub(crate) async fn login(&self, local: &str) -> anyhow::Result<Wire> {
        self.login_from(local, None).await
    }

    /// Connects from a given address and logs in.
    pub(crate) async fn login_from(&self, local: &str, source: Option<SocketAddr>) -> anyhow::Result<Wire> {
        let mut wire = self.enter(source).await?;
        wire.ask(&format!("USER {}\r\n", address(local)), "+OK").await?;
        wire.send(format!("PASS {PASSWORD}\r\n").as_bytes()).await?;
        wire.expect("+OK").await.context("log in")?;
        Ok(wire)
    }
}

/// Polls a mailbox: login, STAT, QUIT, each command after the answer to the last.
pub(crate) async fn poll(door: &Door, local: &str) -> anyhow::Result<()> {
    let mut wire = door.login(local).await?;
    wire.ask("STAT\r\n", "+OK").await?;
    wire.ask("QUIT\r\n", "+OK").await
}

/// Polls for as long as the budget lasts.
pub(crate) async fn polls(door: Door, local: String, budget: Arc<Budget>) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    while budget.next().is_some() {
        let start = Instant::now();
        poll(&door, &local).await?;
        tally.add(start, 0);
    }
    Ok(tally)
}

/// Fetches every message of a mailbox, over and over, a session for each round.
pub(crate) async fn fetches(door: Door, local: String, budget: Arc<Budget>) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    'rounds: loop {
        let mut wire = door.login(&local).await?;
        for number in 1..=count(&mut wire).await? {
            if budget.next().is_none() {
                break 'rounds wire.ask("QUIT\r\n", "+OK").await?;
            }
            let start = Instant::now();
            let body = wire.fetch(&format!("RETR {number}\r\n")).await?;
            tally.add(start, body.octets);
        }
        wire.ask("QUIT\r\n", "+OK").await?;
    }
    Ok(tally)
}

/// How many messages STAT says there are; none at all is an error, for then nothing would be measured.
pub(crate) async fn count(wire: &mut Wire) -> anyhow::Result<u64> {
    wire.send(b"STAT\r\n").await?;
    let line = String::from_utf8_lossy(wire.line().await?).into_owned();
    match line.split(' ').nth(1).and_then(|count| count.parse().ok()) {
        Some(count) if count > 0 => Ok(count),
        _ => bail!("STAT: {line}"),
    }
}

/// An LMTP connection past its greeting.
pub(crate) async fn lmtp(ports: Ports) -> anyhow::Result<Wire> {
    let mut wire = Wire::connect(ports.lmtp).await?;
    wire.expect("220").await?;
    wire.ask("LHLO bench.example\r\n", "250").await?;
    Ok(wire)
}

/// Delivers one message: the envelope in one go (RFC 2920), then the message.
pub(crate) async fn deliver(wire: &mut Wire, recipients: &[String], message: &[u8]) -> anyhow::Result<()> {
    let mut envelope = String::from("MAIL FROM:<sender@bench.example>\r\n");
    for recipient in recipients {
        let _ = write!(envelope, "RCPT TO:<{}>\r\n", address(recipient));
    }
    envelope.push_str("DATA\r\n");
    wire.send(envelope.as_bytes()).await?;
    for _ in 0..=recipients.len() {
        wire.expect("250").await.context("envelope")?;
    }
    wire.expect("354").await?;
    let mut data = Vec::with_capacity(message.len() + 3);
    data.extend_from_slice(message);
    data.extend_from_slice(b".\r\n");
    wire.send(&data).await?;
    for _ in recipients {
        wire.expect("250").await.context("delivery")?;
    }
    Ok(())
}

/// Delivers for as long as the budget lasts. Each message goes to `width` of the recipients, taken in turn.
pub(crate) async fn deliveries(
    ports: Ports,
    recipients: Arc<Vec<String>>,
    width: usize,
    mails: Arc<Vec<Mail>>,
    budget: Arc<Budget>,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut wire = lmtp(ports).await?;
    while let Some(number) = budget.next() {
        let message = mails[number as usize % mails.len()].message(number);
        let chosen: Vec<String> =
            (0..width).map(|at| recipients[(number as usize + at) % recipients.len()].clone()).collect();
        let start = Instant::now();
        deliver(&mut wire, &chosen, &message).await?;
        tally.add(start, message.len() as u64);
    }
    wire.ask("QUIT\r\n", "221").await?;
    Ok(tally)
}
