//! The POP3 core, as what is between a client and a mechanism.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pop3_proto::{
    Authorization, AuthorizationStep, LineBuffer, MAX_SASL_LINE_OCTETS, MAX_TOKEN_OCTETS, Mechanism,
    SaslExchange, SaslStep, Tls,
};

use crate::script::Script;

/// The POP3 core between the two: what one says arrives at the other as it was said.
pub(super) struct Wire<'a> {
    script: Script<'a>,
    input: LineBuffer,
    out: Vec<u8>,
    state: Option<Authorization>,
}

impl<'a> Wire<'a> {
    pub(super) fn new(script: &Script<'a>, mechanism: Mechanism) -> Self {
        let mut policy = pop3_proto::Policy::new("ready", "");
        policy.tls = Tls::Active;
        policy.mechanisms = [mechanism].into_iter().collect();
        let mut input = LineBuffer::default();
        input.set_max_auth_octets(MAX_SASL_LINE_OCTETS);
        Self { script: *script, input, out: Vec::new(), state: Some(Authorization::new(policy)) }
    }

    pub(super) fn begin(
        &mut self,
        mechanism: Mechanism,
        initial: Option<&[u8]>,
    ) -> Option<(SaslExchange, Option<Vec<u8>>)> {
        let mut line = format!("auth {}", mechanism.as_str());
        if let Some(initial) = initial {
            // RFC 5034 §4: an empty one is told from none.
            let encoded = if initial.is_empty() { "=".to_owned() } else { STANDARD.encode(initial) };
            line = format!("{line} {encoded}");
        }
        self.push(&line);
        let state = self.state.take()?;
        let line = self.input.next_line().expect("a line was ended");
        match state.line(line, &mut self.out) {
            AuthorizationStep::Sasl(exchange, token) => {
                assert!(self.out.is_empty());
                assert_eq!(exchange.mechanism(), mechanism);
                assert_eq!(token.as_ref().map(pop3_proto::Token::expose), initial);
                Some((exchange, initial.map(<[u8]>::to_vec)))
            }
            AuthorizationStep::Continue(_) => {
                assert!(
                    initial.is_some_and(|initial| initial.len() > MAX_TOKEN_OCTETS),
                    "a token is refused"
                );
                assert!(self.out.starts_with(b"-ERR "));
                None
            }
            step => panic!("{step:?}"),
        }
    }

    pub(super) fn challenge(
        &mut self,
        exchange: SaslExchange,
        challenge: &[u8],
        response: &[u8],
    ) -> Option<SaslExchange> {
        let challenged = exchange.challenge(challenge, &mut self.out);
        let expected = format!("+ {}\r\n", STANDARD.encode(challenge));
        assert_eq!(std::mem::take(&mut self.out), expected.as_bytes());
        self.input.set_max_octets(MAX_SASL_LINE_OCTETS);
        self.push(&STANDARD.encode(response));
        let line = self.input.next_line().expect("a line was ended");
        match challenged.line(line, &mut self.out) {
            SaslStep::Response(exchange, token) => {
                assert_eq!(token.expose(), response);
                Some(exchange)
            }
            SaslStep::Ended(_) => {
                assert!(response.len() > MAX_TOKEN_OCTETS, "a token is refused");
                assert!(self.out.starts_with(b"-ERR "));
                None
            }
        }
    }

    fn push(&mut self, line: &str) {
        for piece in self.script.pieces(line.as_bytes()) {
            self.input.push(piece);
            assert!(self.input.next_line().is_none() && self.input.buffered() <= MAX_SASL_LINE_OCTETS);
        }
        self.input.push(b"\r\n");
    }
}
