//! The envelope as octets.

use maildrop::{EntryEnvelope, MailboxId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{ENVELOPE_OCTETS_MAX, Fields, Malformed};

/// The envelope as it is sealed.
pub fn encode_envelope(envelope: &EntryEnvelope) -> Result<Vec<u8>, Malformed> {
    let octets = 20
        + envelope.sender.len()
        + envelope.recipients.iter().map(|(_, address)| 20 + address.len()).sum::<usize>();
    if octets > ENVELOPE_OCTETS_MAX {
        return Err(Malformed("envelope has too many recipients"));
    }
    let mut out = Vec::with_capacity(octets);
    out.extend_from_slice(&envelope.received_at.unix_timestamp().to_le_bytes());
    out.extend_from_slice(&envelope.received_at.nanosecond().to_le_bytes());
    push_text(&mut out, &envelope.sender);
    out.extend_from_slice(&(envelope.recipients.len() as u32).to_le_bytes());
    for (mailbox, address) in &envelope.recipients {
        out.extend_from_slice(mailbox.as_uuid().as_bytes());
        push_text(&mut out, address);
    }
    Ok(out)
}

/// Reads an envelope. Times come back in UTC.
pub fn decode_envelope(octets: &[u8]) -> Result<EntryEnvelope, Malformed> {
    let mut fields = Fields(octets);
    let received_at = OffsetDateTime::from_unix_timestamp(i64::from_le_bytes(fields.array()?))
        .ok()
        .zip(fields.u32().ok())
        .and_then(|(second, nanosecond)| second.replace_nanosecond(nanosecond).ok())
        .ok_or(Malformed("envelope has an impossible time"))?;
    let sender = take_text(&mut fields)?;
    let count = fields.u32()?;
    // Not reserved by `count`: only as many as there are octets for are ever made.
    let mut recipients = Vec::new();
    for _ in 0..count {
        let mailbox = MailboxId::from_uuid(Uuid::from_bytes(fields.array()?));
        recipients.push((mailbox, take_text(&mut fields)?));
    }
    fields.end()?;
    Ok(EntryEnvelope { received_at, sender, recipients })
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn take_text(fields: &mut Fields<'_>) -> Result<String, Malformed> {
    let octets = fields.u32()? as usize;
    let text = std::str::from_utf8(fields.take(octets)?).map_err(|_| Malformed("envelope is not UTF-8"))?;
    Ok(text.to_owned())
}
