//! A JSON object a line, without depth: what spans say stands beside what the event says.
//!
//! ```json
//! {"timestamp":"…","level":"INFO","target":"frontend::pop3","message":"session ended","reason":"quit","session":"…","tenant.id":"…"}
//! ```
//!
//! Programs that read logs can name a field without knowing in which span it was recorded. The first four
//! keys come first and in this order, the others by name. Where several say a key, the event's word counts,
//! then that of the innermost span.

use std::{collections::BTreeMap, error::Error, fmt, io::Write};

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::{
    fmt::MakeWriter,
    layer::{Context, Layer},
    registry::{LookupSpan, Scope},
};

use crate::config::Chain;

/// Writes events as lines of JSON.
pub(super) struct JsonLines<W> {
    writer: W,
}

impl<W> JsonLines<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer }
    }
}

/// What was recorded so far on a span, or by an event: few, and kept for as long as an idle session lasts.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, Value)>);

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = BTreeMap::new();
        let spans = context.event_scope(event).into_iter().flat_map(Scope::from_root);
        for span in spans {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.extend(of_span.0.iter().cloned());
            }
        }
        let mut of_event = Fields::default();
        event.record(&mut of_event);
        fields.extend(of_event.0);
        // Libraries that write to `log` come by way of an event that holds their metadata as fields.
        let normal = event.normalized_metadata();
        if normal.is_some() {
            fields.retain(|key, _| !key.starts_with("log."));
        }
        let metadata = normal.as_ref().unwrap_or_else(|| event.metadata());
        let line = line(OffsetDateTime::now_utc(), metadata, fields);
        // Where the log cannot be written there is no place to say so.
        let _ = self.writer.make_writer_for(event.metadata()).write_all(line.as_bytes());
    }
}

fn line(at: OffsetDateTime, metadata: &Metadata<'_>, mut fields: BTreeMap<&str, Value>) -> String {
    let message = fields.remove("message").unwrap_or_default();
    let head = [
        ("timestamp", Value::from(at.format(&Rfc3339).unwrap_or_default())),
        ("level", metadata.level().as_str().into()),
        ("target", metadata.target().into()),
        ("message", message),
    ];
    for (key, _) in &head {
        fields.remove(key);
    }
    let mut line = String::from("{");
    for (key, value) in head.into_iter().chain(fields) {
        line += &format!("{}:{value},", Value::from(key));
    }
    line.pop();
    line += "}\n";
    line
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.insert(field, Chain(value).to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }
}

impl Fields {
    fn insert(&mut self, field: &Field, value: Value) {
        match self.0.iter_mut().find(|(name, _)| *name == field.name()) {
            Some((_, known)) => *known = value,
            None => self.0.push((field.name(), value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written while `what` runs.
    fn log(what: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::registry().with(JsonLines::new(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, what);
        let octets = written.0.lock().unwrap().clone();
        String::from_utf8(octets).unwrap()
    }

    #[test]
    fn spans_and_event_stand_side_by_side() {
        let text = log(|| {
            let outer = tracing::info_span!("outer", session = "s", tenant.id = tracing::field::Empty, n = 1);
            let _entered = outer.enter();
            outer.record("tenant.id", "t");
            let _inner = tracing::info_span!("inner", n = 2, level = "no").entered();
            tracing::warn!(target: "here", text = "a \"b\"\n\u{1}", yes = true, "said");
        });
        let (timestamp, rest) = text.split_once(",\"level\"").unwrap();
        assert!(timestamp.starts_with("{\"timestamp\":\"20"), "{timestamp}");
        assert_eq!(
            rest,
            ":\"WARN\",\"target\":\"here\",\"message\":\"said\",\"n\":2,\"session\":\"s\",\"tenant.id\":\"t\",\
             \"text\":\"a \\\"b\\\"\\n\\u0001\",\"yes\":true}\n"
        );
    }

    #[test]
    fn an_errors_causes_are_told() {
        let error = io::Error::other(crate::config::ConfigError::new("a.b", "is wrong"));
        let text = log(|| tracing::error!(error = &error as &dyn Error, "failed"));
        assert!(text.contains("\"error\":\"a.b: is wrong\""), "{text}");
    }
}
