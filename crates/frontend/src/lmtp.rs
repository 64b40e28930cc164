//! LMTP: drives `lmtp-proto` over a socket, and delivers to maildrops.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lmtp_proto::{Config, Envelope, Event, RecipientAnswer, Session, Step};
use maildrop::{
    Address, Deliveries, Delivery, NewDelivery, Outcome, PackId, Recipient, RecipientCheck, Rules, SessionId,
    SuspendedReply, TenantId, Trace, TrafficLog,
    port::{Clock, SystemClock, Traffic},
};
use tracing::{Instrument as _, debug, info, warn};

use crate::{
    drain::DrainHandle,
    metrics::{Active, Metrics, seconds_since},
    seats::{Refusal, Seat},
    stream::{Client, Peer, Stream, session_span},
    wire::{End, Wire},
};

/// Tenants one message can be for at once: it is stored once for each, under each one's key, and each such
/// copy takes memory while it comes in. The client sends the rest in another transaction.
const TENANTS_MAX: usize = 16;

/// How LMTP is served.
#[derive(Debug, Clone)]
pub struct LmtpConfig {
    /// Named in the greeting and in `Received`.
    pub hostname: Arc<str>,
    /// The largest message taken, in octets.
    pub max_message_octets: u64,
    /// The most recipients of one transaction.
    pub max_recipients: usize,
    /// Longest silence (RFC 5321 §4.5.3.2.7 gives a client 5 minutes).
    pub idle_timeout: Duration,
    /// Longest time a client may take to read a reply.
    pub write_timeout: Duration,
    /// Whether the log shows clients' addresses.
    pub log_clients: bool,
}

impl LmtpConfig {
    /// The defaults: 256 MiB, 1,000 recipients, five minutes each; addresses are logged.
    pub fn new(hostname: impl Into<Arc<str>>) -> Self {
        Self {
            hostname: hostname.into(),
            max_message_octets: 256 * 1024 * 1024,
            max_recipients: 1000,
            idle_timeout: Duration::from_mins(5),
            write_timeout: Duration::from_mins(5),
            log_clients: true,
        }
    }
}

/// The LMTP service of a node.
#[derive(Debug)]
pub struct LmtpService {
    config: LmtpConfig,
    deliveries: Deliveries,
    traffic: TrafficLog,
    metrics: Metrics,
}

impl LmtpService {
    /// A service over these parts.
    pub fn new(config: LmtpConfig, deliveries: Deliveries, traffic: TrafficLog, metrics: Metrics) -> Self {
        Self { config, deliveries, traffic, metrics }
    }

    /// Serves a connection. Without a seat it is told so and closed.
    pub(crate) async fn serve(
        self: Arc<Self>,
        stream: Stream,
        client: Client,
        seat: Result<Seat, Refusal>,
        drain: DrainHandle,
    ) {
        let _active = Active::new(&self.metrics.lmtp.sessions_active);
        let session = SessionId::generate();
        let mut proto = Session::new(Config {
            greeting: format!("LMTP ready ({session})").into(),
            max_message_octets: self.config.max_message_octets,
            max_recipients: self.config.max_recipients,
            ..Config::new(Arc::clone(&self.config.hostname))
        });
        let octets = self.metrics.lmtp.octets.clone();
        let mut wire = Wire::new(stream, drain, self.config.write_timeout, octets);
        if seat.is_err() {
            proto.too_many_connections(&mut wire.out);
            return wire.close(true).await;
        }
        proto.greeting(&mut wire.out);
        let connection = Connection {
            service: &self,
            proto,
            wire,
            peer: client.peer,
            envelope: None,
            recipients: Vec::new(),
            octets: 0,
            delivery: None,
            id: PackId::generate(),
            tally: Tally::default(),
        };
        let span = session_span("lmtp", session, &client, self.config.log_clients);
        connection.run().instrument(span).await;
        drop(seat);
    }
}

/// One connection.
struct Connection<'a> {
    service: &'a LmtpService,
    proto: Session,
    wire: Wire,
    peer: Peer,
    envelope: Option<Envelope>,
    recipients: Vec<Recipient>,
    /// Octets of the message that is coming in.
    octets: u64,
    delivery: Option<Delivery>,
    /// Names the message that is coming in, in its `Received` field and in the log.
    id: PackId,
    tally: Tally,
}

/// What a session came to, for its last line in the log.
#[derive(Debug, Default)]
struct Tally {
    /// Messages that came in whole.
    messages: u64,
    /// Recipients they were delivered to.
    delivered: u64,
    /// Octets of messages.
    octets: u64,
}

impl Connection<'_> {
    async fn run(mut self) {
        let start = Instant::now();
        let (reason, linger) = match self.converse().await {
            Ok(()) => ("closed", false),
            Err(End::Gone(error)) => {
                debug!(%error, "client is gone");
                self.wire.out.clear();
                ("gone", false)
            }
            Err(End::Stalled) => {
                self.wire.out.clear();
                ("stalled", false)
            }
            Err(End::Idle) => {
                self.proto.idle_timeout(&mut self.wire.out);
                ("idle", true)
            }
            // Nobody logs in here, so that nobody is ended, or taken over from.
            Err(End::Closing | End::Ended | End::TakenOver) => {
                self.proto.shutting_down(&mut self.wire.out);
                ("closing", true)
            }
        };
        let Tally { messages, delivered, octets } = &self.tally;
        let duration_ms = start.elapsed().as_millis() as u64;
        info!(messages, delivered, octets, duration_ms, reason, "session ended");
        self.wire.close(linger).await;
    }

    async fn converse(&mut self) -> Result<(), End> {
        loop {
            match self.proto.step(&mut self.wire.out) {
                Step::Close => return Ok(()),
                Step::Event(event) => {
                    Box::pin(self.see_to(event)).await;
                    self.wire.flush_if_full().await?;
                }
                Step::NeedInput => {
                    // A message under way is let in: half of it would only come again.
                    if let Some(end) = self.wire.end().filter(|_| self.proto.is_between_commands()) {
                        return Err(end);
                    }
                    self.wire.flush().await?;
                    let proto = &mut self.proto;
                    let between = proto.is_between_commands();
                    let read = |octets: &[u8]| proto.feed(octets);
                    let idle = self.service.config.idle_timeout;
                    if between {
                        self.wire.read(idle, read).await?;
                    } else {
                        self.wire.read_on(idle, read).await?;
                    }
                }
            }
        }
    }

    async fn see_to(&mut self, event: Event) {
        match event {
            Event::Mail(envelope) => {
                self.forget();
                self.envelope = Some(envelope);
            }
            Event::Recipient(address) => {
                let answer = self.recipient(&address).await;
                self.proto.recipient(answer, &mut self.wire.out);
            }
            Event::Data => {
                self.begin().await;
                if self.delivery.is_some() {
                    self.proto.data_ready(&mut self.wire.out);
                } else {
                    self.proto.data_refused(&mut self.wire.out);
                }
            }
            Event::Body(octets) => {
                self.service.metrics.lmtp.message_octets.inc_by(octets.len() as u64);
                self.octets += octets.len() as u64;
                if let Some(delivery) = &mut self.delivery {
                    delivery.write(&octets).await;
                }
            }
            Event::BodyEnd { .. } => {
                let start = Instant::now();
                let outcomes = match self.delivery.take() {
                    Some(delivery) => delivery.finish().await,
                    None => Vec::new(),
                };
                self.service.metrics.lmtp.delivery_duration.observe(seconds_since(start));
                let delivered =
                    outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Delivered(_))).count();
                self.tally.messages += 1;
                self.tally.delivered += delivered as u64;
                self.tally.octets += self.octets;
                for (recipient, outcome) in self.recipients.iter().zip(&outcomes) {
                    self.count(recipient, *outcome);
                }
                let replies: Vec<_> = outcomes.into_iter().map(outcome_reply).collect();
                self.proto.delivered(&replies, &mut self.wire.out);
                self.forget();
            }
            Event::Reset => self.forget(),
        }
    }

    /// Forgets the transaction. A message that was coming in was promised nothing.
    fn forget(&mut self) {
        self.envelope = None;
        self.recipients.clear();
        self.octets = 0;
        self.delivery = None;
    }

    /// Counts and logs what became of a message for one recipient.
    fn count(&self, recipient: &Recipient, outcome: Outcome) {
        let (metrics, word) = (&self.service.metrics, outcome_word(outcome));
        info!(
            tenant.id = %recipient.tenant,
            mailbox.id = %recipient.mailbox,
            recipient = recipient.address.as_str(),
            delivery = %self.id,
            octets = self.octets,
            outcome = word,
            "delivery ended"
        );
        metrics.lmtp.deliveries.with_label_values(&[word]).inc();
        let delivered = matches!(outcome, Outcome::Delivered(_));
        let octets = if delivered { self.octets } else { 0 };
        if delivered {
            let traffic = Traffic { messages_in: 1, octets_in: octets, ..Traffic::default() };
            let rules = Rules::default();
            self.service.traffic.count(recipient.tenant, recipient.mailbox, &rules, traffic);
        }
        metrics.tenants.delivery(recipient.tenant, word, octets);
        if outcome == Outcome::OverQuota {
            self.count_over_quota(recipient.tenant, "data");
        }
    }

    fn count_over_quota(&self, tenant: TenantId, stage: &str) {
        self.service.metrics.lmtp.quota_refusals.with_label_values(&[stage]).inc();
        self.service.metrics.tenants.refusal(tenant, "quota");
    }

    /// Answers RCPT, and counts the answer.
    async fn recipient(&mut self, address: &lmtp_proto::Address) -> RecipientAnswer {
        let answer = self.look_up(address).await;
        self.service.metrics.lmtp.recipients.with_label_values(&[answer_word(answer)]).inc();
        answer
    }

    async fn look_up(&mut self, address: &lmtp_proto::Address) -> RecipientAnswer {
        let Some(Ok(address)) = address.domain().map(|domain| Address::new(address.local(), domain)) else {
            return RecipientAnswer::Unknown;
        };
        let announced = self.envelope.as_ref().and_then(|envelope| envelope.size);
        match self.service.deliveries.recipient(address, announced).await {
            Ok(RecipientCheck::Accepted(recipient)) => {
                if !self.recipients.iter().any(|known| known.tenant == recipient.tenant)
                    && self.tenants() >= TENANTS_MAX
                {
                    return RecipientAnswer::TooMany;
                }
                self.recipients.push(recipient);
                RecipientAnswer::Accepted
            }
            Ok(RecipientCheck::Unknown) => RecipientAnswer::Unknown,
            Ok(RecipientCheck::OverQuota { tenant }) => {
                self.count_over_quota(tenant, "rcpt");
                RecipientAnswer::OverQuota
            }
            Ok(RecipientCheck::TooLarge) => RecipientAnswer::TooLarge,
            Ok(RecipientCheck::Suspended(SuspendedReply::Permanent)) => RecipientAnswer::Disabled,
            Ok(RecipientCheck::Suspended(SuspendedReply::Temporary)) => RecipientAnswer::Suspended,
            Ok(RecipientCheck::Throttled { tenant }) => {
                self.service.metrics.tenants.refusal(tenant, "rate");
                RecipientAnswer::Throttled
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "recipient could not be looked up");
                RecipientAnswer::Temporary
            }
        }
    }

    fn tenants(&self) -> usize {
        let tenants: std::collections::HashSet<_> = self.recipients.iter().map(|r| r.tenant).collect();
        tenants.len()
    }

    async fn begin(&mut self) {
        let Some(envelope) = &self.envelope else { return };
        let sender = envelope.sender.as_ref().map(|s| s.as_str().to_owned()).unwrap_or_default();
        let received_at = SystemClock.now();
        self.id = PackId::generate();
        let id = self.id.to_string();
        let trace = Trace {
            sender: &sender,
            client_name: self.proto.client_name().unwrap_or("unknown"),
            client_address: &self.peer.to_string(),
            hostname: &self.service.config.hostname,
            protocol: if envelope.smtputf8 { "UTF8LMTP" } else { "LMTP" },
            id: &id,
            received_at,
        }
        .to_octets();
        let recipients = self.recipients.clone();
        debug!(delivery = %id, recipients = recipients.len(), "message is coming in");
        let new = NewDelivery { sender, recipients, trace, received_at };
        let delivery = self.service.deliveries.begin(new).await;
        // Where no tenant's part could be begun, the client need not send the message.
        self.delivery = (!delivery.is_lost()).then_some(delivery);
    }
}

/// What a client is told of a recipient's delivery.
fn outcome_reply(outcome: Outcome) -> lmtp_proto::Outcome {
    match outcome {
        Outcome::Delivered(_) => lmtp_proto::Outcome::Delivered,
        Outcome::OverQuota => lmtp_proto::Outcome::OverQuota,
        Outcome::TooLarge => lmtp_proto::Outcome::TooLarge,
        Outcome::Unknown => lmtp_proto::Outcome::Unknown,
        Outcome::StorageFull => lmtp_proto::Outcome::StorageFull,
        Outcome::Temporary => lmtp_proto::Outcome::Temporary,
    }
}

/// The word in the metrics for the answer to RCPT.
fn answer_word(answer: RecipientAnswer) -> &'static str {
    match answer {
        RecipientAnswer::Accepted => "accepted",
        RecipientAnswer::Unknown => "unknown",
        RecipientAnswer::OverQuota => "over_quota",
        RecipientAnswer::TooLarge => "too_large",
        RecipientAnswer::Disabled => "disabled",
        RecipientAnswer::Suspended => "suspended",
        RecipientAnswer::TooMany => "too_many",
        RecipientAnswer::Throttled => "throttled",
        RecipientAnswer::Temporary => "temporary",
    }
}

/// The outcome's word in the metrics.
fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered(_) => "delivered",
        Outcome::OverQuota => "over_quota",
        Outcome::TooLarge => "too_large",
        Outcome::Unknown => "unknown",
        Outcome::StorageFull => "storage_full",
        Outcome::Temporary => "temporary",
    }
}
