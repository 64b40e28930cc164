//! What checks read, in both dialects.

use maildrop::{
    Digest, Extent, MailboxId, PackId, Uid,
    port::{IndexError, PackFacts, Pointers, WrongCounters},
};
use uuid::Uuid;

use crate::error::corrupt;

/// A pack that the index knows, its octets, whether it is alive, whether garbage of it is noted, whether it is deleted.
pub(crate) type PackRow = (Uuid, i64, bool, bool, bool);

/// Packs that are known, up to `limit`, with those that are not and that something points at, up to `limit` and no further
/// than the known ones if these are so many. Where the page is not the last, the pack to go on from.
pub(crate) fn page(known: Vec<PackRow>, pointed: &[Uuid], limit: u32) -> (Vec<PackFacts>, Option<PackId>) {
    let limit = limit as usize;
    let ends = [
        known.last().filter(|_| known.len() >= limit).map(|row| row.0),
        pointed.last().filter(|_| pointed.len() >= limit).copied(),
    ];
    let end = ends.into_iter().flatten().min();
    let of_known = known.into_iter().map(|(pack, octets, alive, collected, deleted)| PackFacts {
        pack: PackId::from_uuid(pack),
        octets: Some(octets as u64),
        alive,
        collected,
        deleted,
    });
    let of_pointed = pointed.iter().map(|pack| PackFacts {
        pack: PackId::from_uuid(*pack),
        octets: None,
        alive: true,
        collected: false,
        deleted: false,
    });
    let mut page: Vec<PackFacts> = of_known.chain(of_pointed).collect();
    page.sort_unstable_by_key(|facts| facts.pack);
    page.retain(|facts| end.is_none_or(|end| facts.pack.as_uuid() <= end));
    (page, end.map(PackId::from_uuid))
}

/// Where an entry lies, its digest, how many rows point at it, and one of them: `mailbox/uid`.
#[derive(sqlx::FromRow)]
pub(crate) struct PointersRow(i64, i64, Vec<u8>, i64, String);

impl PointersRow {
    pub(crate) fn of(self, pack: PackId) -> Result<Pointers, IndexError> {
        let Self(offset, length, digest, rows, one) = self;
        let (mailbox, uid) = one.split_once('/').ok_or_else(|| corrupt("uid"))?;
        Ok(Pointers {
            extent: extent(pack, (offset, length)),
            digest: Digest(digest.try_into().map_err(|_| corrupt("digest"))?),
            rows: rows as u64,
            mailbox: MailboxId::from_uuid(Uuid::try_parse(mailbox).map_err(|_| corrupt("mailbox"))?),
            uid: Uid(uid.parse().map_err(|_| corrupt("uid"))?),
        })
    }
}

/// Those of a page of mailboxes whose counters are wrong; and the last of the page, unless there are no more.
pub(crate) fn wrong_counters(
    rows: Vec<(Uuid, String, i64, i64, i64, i64, i64, i64)>,
    limit: u32,
) -> (Vec<WrongCounters>, Option<MailboxId>) {
    let last = rows.last().filter(|_| rows.len() >= limit as usize).map(|row| MailboxId::from_uuid(row.0));
    let wrong = rows
        .into_iter()
        .filter(|row| row.2 != row.3 || row.4 != row.5 || row.6 <= row.7)
        .map(|row| WrongCounters {
            mailbox: MailboxId::from_uuid(row.0),
            address: row.1,
            messages: (row.2, row.3),
            octets: (row.4, row.5),
            next_uid: (row.6, row.7),
        })
        .collect();
    (wrong, last)
}

/// Where an entry lies, from its columns.
pub(crate) const fn extent(pack: PackId, (offset, length): (i64, i64)) -> Extent {
    Extent { pack, offset: offset as u64, length: length as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(nth: u8) -> Uuid {
        Uuid::from_bytes([nth; 16])
    }

    #[track_caller]
    fn check(known: &[u8], pointed: &[u8], expected: &[u8], next: Option<u8>) {
        let known = known.iter().map(|nth| (id(*nth), 1, true, false, false)).collect();
        let pointed: Vec<Uuid> = pointed.iter().map(|nth| id(*nth)).collect();
        let (page, end) = page(known, &pointed, 3);
        assert_eq!(
            page.iter().map(|facts| facts.pack.as_uuid()).collect::<Vec<_>>(),
            expected.iter().map(|n| id(*n)).collect::<Vec<_>>()
        );
        assert_eq!(end.map(|end| end.as_uuid()), next.map(id));
    }

    #[test]
    fn no_pack_falls_between_two_pages() {
        check(&[], &[], &[], None);
        check(&[1, 3], &[2, 4], &[1, 2, 3, 4], None);
        check(&[1, 3, 5], &[2], &[1, 2, 3, 5], Some(5));
        check(&[1, 9], &[2, 4, 6], &[1, 2, 4, 6], Some(6));
        check(&[1, 3, 5], &[2, 3, 4], &[1, 2, 3, 3, 4], Some(4));
    }
}
