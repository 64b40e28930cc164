//! XCLIENT and XOIP: a proxy that logs in for its client says who that is.

use pop3_proto::{Authorization, ForwardedAddress, ForwardedClient, Forwarding, replies};
use tracing::debug;

use super::Session;

impl Session<'_> {
    /// Takes the client for whom the proxy says. `None` if there is no seat for it, which it was told.
    pub(super) fn forward(
        &mut self,
        forwarding: Forwarding,
        forwarded: ForwardedClient,
    ) -> Option<Authorization> {
        match forwarded.address {
            Some(ForwardedAddress::Known(ip)) => self.client.set_address(Some(ip)),
            Some(ForwardedAddress::Unavailable) => self.client.set_address(None),
            None => {}
        }
        if let Some(id) = forwarded.session {
            self.client.set_id(id.into());
        }
        if !self.seat.move_to(self.client.peer) {
            replies::too_many_connections(self.wording, &mut self.wire.out);
            return None;
        }
        self.client.record(&tracing::Span::current(), self.service.config.log_clients);
        debug!(port = forwarded.port, "client was forwarded");
        let plaintext_login = self.service.takes_plaintext_from(&self.client);
        Some(forwarding.accept(plaintext_login, &mut self.wire.out))
    }
}
