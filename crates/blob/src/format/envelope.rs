//! The envelope as octets.

use maildrop::{BulletinEnvelope, BulletinId, EntryEnvelope, MailboxId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{ENVELOPE_OCTETS_MAX, Fields, Malformed};

/// Stands for the count of recipients where there are none, for it is a bulletin. No envelope has room for so many.
const BULLETIN: u32 = u32::MAX;
/// Set in the flags of a bulletin where mailboxes that are created after it get it, too.
const NEW_MAILBOXES: u8 = 1;
/// The second at which a bulletin ends that does not.
const NEVER: i64 = i64::MAX;

/// The envelope as it is sealed.
pub fn encode_envelope(envelope: &EntryEnvelope) -> Result<Vec<u8>, Malformed> {
    let octets = 20
        + envelope.sender.len()
        + envelope.recipients.iter().map(|(_, address)| 20 + address.len()).sum::<usize>()
        + envelope.bulletin.as_ref().map_or(0, |bulletin| 33 + bulletin.note.len());
    if octets > ENVELOPE_OCTETS_MAX {
        return Err(Malformed("envelope has too many recipients"));
    }
    if envelope.bulletin.is_some() && !envelope.recipients.is_empty() {
        return Err(Malformed("a bulletin has no recipients"));
    }
    let mut out = Vec::with_capacity(octets);
    out.extend_from_slice(&envelope.received_at.unix_timestamp().to_le_bytes());
    out.extend_from_slice(&envelope.received_at.nanosecond().to_le_bytes());
    push_text(&mut out, &envelope.sender);
    if let Some(bulletin) = &envelope.bulletin {
        push_bulletin(&mut out, bulletin);
        return Ok(out);
    }
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
    let received_at = time_of(i64::from_le_bytes(fields.array()?), fields.u32()?)?;
    let sender = take_text(&mut fields)?;
    let count = fields.u32()?;
    if count == BULLETIN {
        let bulletin = Some(take_bulletin(&mut fields)?);
        fields.end()?;
        return Ok(EntryEnvelope { received_at, sender, recipients: Vec::new(), bulletin });
    }
    // Not reserved by `count`: only as many as there are octets for are ever made.
    let mut recipients = Vec::new();
    for _ in 0..count {
        let mailbox = MailboxId::from_uuid(Uuid::from_bytes(fields.array()?));
        recipients.push((mailbox, take_text(&mut fields)?));
    }
    fields.end()?;
    Ok(EntryEnvelope { received_at, sender, recipients, bulletin: None })
}

fn push_bulletin(out: &mut Vec<u8>, bulletin: &BulletinEnvelope) {
    out.extend_from_slice(&BULLETIN.to_le_bytes());
    out.extend_from_slice(bulletin.id.as_uuid().as_bytes());
    out.push(if bulletin.new_mailboxes { NEW_MAILBOXES } else { 0 });
    let (second, nanosecond) =
        bulletin.expires_at.map_or((NEVER, 0), |end| (end.unix_timestamp(), end.nanosecond()));
    out.extend_from_slice(&second.to_le_bytes());
    out.extend_from_slice(&nanosecond.to_le_bytes());
    push_text(out, &bulletin.note);
}

fn take_bulletin(fields: &mut Fields<'_>) -> Result<BulletinEnvelope, Malformed> {
    let id = BulletinId::from_uuid(Uuid::from_bytes(fields.array()?));
    let [flags] = fields.array()?;
    if flags & !NEW_MAILBOXES != 0 {
        return Err(Malformed("unknown flag of a bulletin"));
    }
    let (second, nanosecond) = (i64::from_le_bytes(fields.array()?), fields.u32()?);
    let expires_at = match (second, nanosecond) {
        (NEVER, 0) => None,
        (second, nanosecond) => Some(time_of(second, nanosecond)?),
    };
    let note = take_text(fields)?;
    Ok(BulletinEnvelope { id, new_mailboxes: flags == NEW_MAILBOXES, expires_at, note })
}

fn time_of(second: i64, nanosecond: u32) -> Result<OffsetDateTime, Malformed> {
    OffsetDateTime::from_unix_timestamp(second)
        .and_then(|second| second.replace_nanosecond(nanosecond))
        .map_err(|_| Malformed("envelope has an impossible time"))
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
