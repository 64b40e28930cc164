//! Bulletins as they come from either database.

use maildrop::{
    Bulletin, BulletinId, BulletinState, Digest, Extent, MessageOctets, PackId, port::IndexError,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{error::corrupt, rows::Stamp};

macro_rules! bulletin_columns {
    () => {
        "bulletin_id, number, note, state, new_mailboxes, expires_at, pack_id, pack_offset, pack_length, octets, \
         ascii_extra, header_octets, digest, reached, delivered, removed, created_by, created_at, ended_at"
    };
}
pub(crate) use bulletin_columns;

#[derive(sqlx::FromRow)]
pub(crate) struct BulletinRow {
    bulletin_id: Uuid,
    number: i64,
    note: String,
    state: String,
    new_mailboxes: bool,
    expires_at: Option<Stamp>,
    pack_id: Uuid,
    pack_offset: i64,
    pack_length: i64,
    octets: i64,
    ascii_extra: Option<i64>,
    header_octets: i64,
    digest: Vec<u8>,
    pub(crate) reached: Option<Uuid>,
    delivered: i64,
    removed: i64,
    created_by: String,
    created_at: Stamp,
    ended_at: Option<Stamp>,
}

impl TryFrom<BulletinRow> for Bulletin {
    type Error = IndexError;

    fn try_from(row: BulletinRow) -> Result<Self, IndexError> {
        let state = BulletinState::ALL.into_iter().find(|state| state.as_str() == row.state);
        Ok(Self {
            id: BulletinId::from_uuid(row.bulletin_id),
            number: row.number as u64,
            note: row.note,
            state: state.ok_or_else(|| corrupt("state of a bulletin"))?,
            new_mailboxes: row.new_mailboxes,
            expires_at: row.expires_at.map(Stamp::time),
            extent: Extent {
                pack: PackId::from_uuid(row.pack_id),
                offset: row.pack_offset as u64,
                length: row.pack_length as u64,
            },
            octets: MessageOctets { ascii: row.octets as u64, ascii_extra: row.ascii_extra },
            header_octets: row.header_octets as u64,
            digest: Digest(row.digest.try_into().map_err(|_| corrupt("digest of a bulletin"))?),
            delivered: row.delivered as u64,
            removed: row.removed as u64,
            created_by: row.created_by,
            created_at: row.created_at.time(),
            ended_at: row.ended_at.map(Stamp::time),
        })
    }
}

/// What the audit log says of a bulletin.
pub(crate) fn audited(bulletin: &Bulletin) -> Value {
    let rfc3339 = |at: time::OffsetDateTime| at.format(&time::format_description::well_known::Rfc3339).ok();
    json!({
        "note": bulletin.note,
        "octets": bulletin.octets.ascii,
        "new_mailboxes": bulletin.new_mailboxes,
        "expires_at": bulletin.expires_at.and_then(rfc3339),
        "delivered": bulletin.delivered,
    })
}

/// A state that a step leads to, or stays in.
pub(crate) fn rolled_out(bulletin: &Bulletin) -> BulletinState {
    if bulletin.new_mailboxes { BulletinState::Active } else { BulletinState::Ended }
}
