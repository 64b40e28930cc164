//! TRANSACTION and UPDATE: what is in the maildrop, and what shall no longer be.

use std::time::Duration;

use bytes::Bytes;
use maildrop::{ClientWorkaround, CommitError, OpenMaildrop, RetrieveError, Retrieved, port::Traffic};
use pop3_proto::{
    ByteStuffer, DropListing, MessageNumber, Request, TopLimit, Transaction, TransactionStep, Update, Verb,
    replies, texts,
};
use tracing::{error, warn};

use super::{Session, authorization::close_reason};
use crate::wire::End;

/// A client that goes on sends its next command sooner.
const REST_AFTER: Duration = Duration::from_secs(10);

impl Session<'_> {
    /// Serves commands until QUIT. However this future ends otherwise, dropping `maildrop` gives the lock
    /// back and deletes nothing.
    pub(super) async fn transact(
        &mut self,
        mut state: Transaction,
        mut maildrop: Box<OpenMaildrop>,
    ) -> Result<&'static str, End> {
        loop {
            self.wording = state.wording();
            let (command, step) = loop {
                if let Some(line) = self.lines.next_line() {
                    let command = self.service.metrics.pop3.command(Verb::of(line));
                    self.wire.begin_reply();
                    break (command, state.line(line, &mut self.wire.out));
                }
                if let Some(end) = self.wire.end() {
                    return Err(end);
                }
                self.fill_or_rest(&mut maildrop).await?;
            };
            state = match step {
                TransactionStep::Continue(state) => state,
                TransactionStep::Request(mut state, request) => {
                    Box::pin(self.answer(&mut state, &mut maildrop, request)).await?;
                    state
                }
                TransactionStep::Quit(update) => {
                    let reason = Box::pin(self.update(update, *maildrop)).await;
                    command.done(self.wire.reply_is_good());
                    return Ok(reason);
                }
                TransactionStep::Close(reason) => return Ok(close_reason(reason)),
            };
            command.done(self.wire.reply_is_good());
            self.wire.flush_if_full().await?;
        }
    }

    /// Waits for the next command. What was fetched ahead for a client that does not go on is given back, so that others
    /// have room to read ahead.
    async fn fill_or_rest(&mut self, maildrop: &mut OpenMaildrop) -> Result<(), End> {
        let idle = self.service.config.idle_timeout;
        let left = idle.saturating_sub(REST_AFTER);
        if left.is_zero() || !maildrop.reads_ahead() {
            return self.fill(idle).await;
        }
        match self.fill(REST_AFTER).await {
            Err(End::Idle) => {
                maildrop.rest();
                self.fill(left).await
            }
            filled => filled,
        }
    }

    async fn answer(
        &mut self,
        state: &mut Transaction,
        maildrop: &mut OpenMaildrop,
        request: Request,
    ) -> Result<(), End> {
        if maildrop.known_listing().is_none() && !self.read_listing(state, maildrop).await {
            return Ok(());
        }
        match request {
            Request::List(None) => self.list(state, maildrop).await,
            Request::UniqueIds(None) => self.unique_ids(state, maildrop).await,
            Request::List(Some(number)) => {
                match octets(maildrop, number) {
                    Some(octets) => replies::list_one(number, octets, &mut self.wire.out),
                    None => replies::no_such_message(self.wording, &mut self.wire.out),
                }
                Ok(())
            }
            Request::UniqueIds(Some(number)) => {
                match maildrop.known_listing().filter(|listing| number.index() < listing.len()) {
                    Some(listing) => {
                        let mut unique_id = String::new();
                        listing.write_unique_id(number.index(), &mut unique_id);
                        replies::unique_id_one(number, &unique_id, &mut self.wire.out);
                    }
                    None => replies::no_such_message(self.wording, &mut self.wire.out),
                }
                Ok(())
            }
            Request::Delete(number) => {
                match octets(maildrop, number) {
                    Some(octets) => state.deleted(number, octets, &mut self.wire.out),
                    None => replies::no_such_message(self.wording, &mut self.wire.out),
                }
                Ok(())
            }
            Request::Retrieve(_) | Request::Top(..) if !self.may_send(maildrop).await => Ok(()),
            Request::Retrieve(number) => match maildrop.retrieve(number.index()).await {
                Ok(retrieved) => self.send_whole(maildrop, retrieved).await,
                Err(error) => {
                    self.refuse(&error);
                    Ok(())
                }
            },
            Request::Top(number, lines) => match maildrop.top(number.index(), lines).await {
                Ok(retrieved) => self.send_top(maildrop, retrieved, lines).await,
                Err(error) => {
                    self.refuse(&error);
                    Ok(())
                }
            },
        }
    }

    /// Reads the listing on first need. `false` when that failed and the client was told.
    async fn read_listing(&mut self, state: &mut Transaction, maildrop: &mut OpenMaildrop) -> bool {
        match maildrop.listing().await {
            Ok(listing) => {
                let messages = u32::try_from(listing.len()).unwrap_or(u32::MAX);
                // Mail may have vanished since the login (retention, an administrator); no number was shown yet.
                state.totals_replaced(DropListing { messages, octets: listing.octets() });
                true
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "listing could not be read");
                replies::temporary_failure(self.wording, texts::LISTING_UNAVAILABLE, &mut self.wire.out);
                false
            }
        }
    }

    async fn list(&mut self, state: &Transaction, maildrop: &OpenMaildrop) -> Result<(), End> {
        let Some(listing) = maildrop.known_listing() else { return Ok(()) };
        replies::list_header(self.wording, state.totals(), &mut self.wire.out);
        for position in 0..listing.len() {
            let number = MessageNumber::from_index(position).filter(|number| !state.is_deleted(*number));
            if let (Some(number), Some(entry)) = (number, listing.get(position)) {
                replies::scan_line(number, entry.octets, &mut self.wire.out);
                self.wire.flush_if_full().await?;
            }
        }
        replies::terminator(&mut self.wire.out);
        Ok(())
    }

    async fn unique_ids(&mut self, state: &Transaction, maildrop: &OpenMaildrop) -> Result<(), End> {
        let Some(listing) = maildrop.known_listing() else { return Ok(()) };
        replies::unique_id_header(self.wording, &mut self.wire.out);
        let mut unique_id = String::new();
        for position in 0..listing.len() {
            let number = MessageNumber::from_index(position).filter(|number| !state.is_deleted(*number));
            if let Some(number) = number {
                unique_id.clear();
                listing.write_unique_id(position, &mut unique_id);
                replies::unique_id_line(number, &unique_id, &mut self.wire.out);
                self.wire.flush_if_full().await?;
            }
        }
        replies::terminator(&mut self.wire.out);
        Ok(())
    }

    /// Whether more may be sent today. `false` when the client was told that it may not.
    async fn may_send(&mut self, maildrop: &OpenMaildrop) -> bool {
        let (tenant, mailbox, rules) = (maildrop.tenant_id(), maildrop.mailbox_id(), maildrop.rules());
        // Where that cannot be asked, what can be read is sent.
        let may = self.service.tenancy.traffic.may_send(tenant, mailbox, rules).await.unwrap_or(true);
        if !may {
            self.service.metrics.tenants.refusal(tenant, "daily_octets");
            replies::temporary_failure(self.wording, texts::DAILY_LIMIT, &mut self.wire.out);
        }
        may
    }

    pub(super) fn count_traffic(&self, maildrop: &OpenMaildrop, traffic: Traffic) {
        let (tenant, mailbox, rules) = (maildrop.tenant_id(), maildrop.mailbox_id(), maildrop.rules());
        self.service.tenancy.traffic.count(tenant, mailbox, rules, traffic);
    }

    /// Sends what was gathered, if it is much, and no faster than tenant and mailbox may have it.
    async fn send_on(&mut self, maildrop: &OpenMaildrop, octets: usize) -> Result<(), End> {
        self.wire.flush_if_full().await?;
        let octets = octets as u64;
        self.count_traffic(maildrop, Traffic { octets_out: octets, ..Traffic::default() });
        let (tenant, mailbox, rules) = (maildrop.tenant_id(), maildrop.mailbox_id(), maildrop.rules());
        let wait = self.service.tenancy.throttle.sent(tenant, mailbox, octets, rules);
        if wait.is_zero() {
            return Ok(());
        }
        self.wire.flush().await?;
        // In the middle of a message there are no last words: they would be taken for a part of it.
        self.wire.pause(wait).await.map_err(|_| End::Gone(std::io::ErrorKind::Interrupted.into()))
    }

    async fn send_whole(&mut self, maildrop: &OpenMaildrop, mut retrieved: Retrieved) -> Result<(), End> {
        replies::retrieve_header(self.wording, retrieved.octets, &mut self.wire.out);
        let no_nuls = maildrop.rules().mailbox.bends(ClientWorkaround::OutlookNoNuls);
        let mut stuffer = ByteStuffer::new();
        stuffer.push(&retrieved.prefix, &mut self.wire.out);
        let mut sent = retrieved.prefix.len() as u64;
        while let Some(chunk) = retrieved.next().await {
            let chunk = bent(chunk.map_err(|error| broken_off(&error))?, no_nuls);
            sent += chunk.len() as u64;
            stuffer.push(&chunk, &mut self.wire.out);
            self.send_on(maildrop, chunk.len()).await?;
        }
        // P4: what LIST said is what RETR sends, or the client must not take it for the message.
        if sent != retrieved.octets {
            error!(sent, octets = retrieved.octets, "message is not as long as its row says");
            return Err(End::Gone(std::io::ErrorKind::InvalidData.into()));
        }
        stuffer.finish(&mut self.wire.out);
        let metrics = &self.service.metrics;
        metrics.pop3.messages_retrieved.inc();
        metrics.pop3.octets_retrieved.inc_by(sent);
        metrics.tenants.retrieved(maildrop.tenant_id(), sent);
        self.count_traffic(maildrop, Traffic { messages_out: 1, ..Traffic::default() });
        self.tally.messages += 1;
        self.tally.octets += sent;
        Ok(())
    }

    async fn send_top(
        &mut self,
        maildrop: &OpenMaildrop,
        mut retrieved: Retrieved,
        lines: u64,
    ) -> Result<(), End> {
        replies::top_header(self.wording, &mut self.wire.out);
        let no_nuls = maildrop.rules().mailbox.bends(ClientWorkaround::OutlookNoNuls);
        let mut stuffer = ByteStuffer::new();
        let mut limit = TopLimit::new(lines);
        stuffer.push(&retrieved.prefix, &mut self.wire.out);
        // A header line before the stored ones: it cannot be the blank line that ends them.
        while !limit.done() {
            let Some(chunk) = retrieved.next().await else { break };
            let chunk = bent(chunk.map_err(|error| broken_off(&error))?, no_nuls);
            let wanted = limit.push(&chunk);
            stuffer.push(&chunk[..wanted], &mut self.wire.out);
            self.send_on(maildrop, wanted).await?;
        }
        stuffer.finish(&mut self.wire.out);
        Ok(())
    }

    fn refuse(&mut self, error: &RetrieveError) {
        let (wording, out) = (self.wording, &mut self.wire.out);
        match error {
            RetrieveError::Vanished => replies::no_such_message(wording, out),
            RetrieveError::Unavailable => {
                replies::temporary_failure(wording, texts::MESSAGE_UNAVAILABLE, out);
            }
            RetrieveError::Damaged => replies::permanent_failure(wording, texts::MESSAGE_DAMAGED, out),
        }
    }

    /// UPDATE (RFC 1939 §6): `+OK` only after the commit (P2).
    async fn update(&mut self, update: Update, maildrop: OpenMaildrop) -> &'static str {
        match maildrop.commit(update.deleted().map(MessageNumber::index)).await {
            Ok(()) => {
                self.tally.deleted = u64::from(update.len());
                self.service.metrics.pop3.messages_deleted.inc_by(self.tally.deleted);
                update.committed(&mut self.wire.out);
                "quit"
            }
            Err(error) => {
                match &error {
                    CommitError::LockLost => warn!("lock was lost: nothing was deleted"),
                    CommitError::Index(error) => {
                        error!(error = error as &dyn std::error::Error, "deletions could not be committed");
                    }
                }
                update.failed(&mut self.wire.out);
                "commit_failed"
            }
        }
    }
}

/// Octets as the client can take them: as many, and in their place, so that sizes stay true (P4).
fn bent(chunk: Bytes, no_nuls: bool) -> Bytes {
    if !no_nuls || !chunk.contains(&0) {
        return chunk;
    }
    chunk.iter().map(|octet| if *octet == 0 { 0x80 } else { *octet }).collect()
}

fn octets(maildrop: &OpenMaildrop, number: MessageNumber) -> Option<u64> {
    Some(maildrop.known_listing()?.get(number.index())?.octets)
}

/// In the middle of a message there is no way to say that it cannot go on: the connection is cut, so that the
/// client does not take what it has for the whole.
fn broken_off(error: &maildrop::port::BlobError) -> End {
    if error.is_retryable() {
        warn!(%error, "message broke off while it was sent");
    } else {
        error!(%error, "message broke off while it was sent");
    }
    End::Gone(std::io::ErrorKind::BrokenPipe.into())
}
