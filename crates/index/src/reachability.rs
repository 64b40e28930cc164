//! What keeps a pack alive. Whatever else may point at extents belongs in here, and nowhere else.

/// SQL, in both dialects: whether anything points at the pack `$pack` of `$tenant`.
macro_rules! reachable {
    ($tenant:literal, $pack:literal) => {
        concat!(
            "(EXISTS (SELECT 1 FROM messages x WHERE x.tenant_id = ",
            $tenant,
            " AND x.pack_id = ",
            $pack,
            ")",
            " OR EXISTS (SELECT 1 FROM deleted_messages x WHERE x.tenant_id = ",
            $tenant,
            " AND x.pack_id = ",
            $pack,
            ")",
            " OR ",
            $crate::reachability::held_by_bulletin!($tenant, $pack),
            " OR ",
            $crate::reachability::held_by_quarantine!($tenant, $pack),
            ")"
        )
    };
}

/// SQL, in both dialects: whether a bulletin that is not over points at the pack. It is put into mailboxes, and taken
/// from them, by where it lies, so such a pack is not rewritten.
macro_rules! held_by_bulletin {
    ($tenant:literal, $pack:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM bulletins x WHERE x.tenant_id = ",
            $tenant,
            " AND x.pack_id = ",
            $pack,
            " AND x.state IN ('rolling_out', 'active', 'withdrawing'))"
        )
    };
}

/// SQL, in both dialects: whether a message was taken out of its mailbox by a check, and is kept: its pack may come back,
/// from a backup or a version of it, and such a pack is neither deleted nor rewritten.
macro_rules! held_by_quarantine {
    ($tenant:literal, $pack:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM message_quarantine x WHERE x.tenant_id = ",
            $tenant,
            " AND x.pack_id = ",
            $pack,
            ")"
        )
    };
}

/// SQL, in both dialects: the rows that point at entries of the pack `$pack` of `$tenant`, with the entry and the
/// message of each.
macro_rules! pointers {
    ($tenant:literal, $pack:literal) => {
        concat!(
            "SELECT pack_offset, pack_length, digest, mailbox_id, uid FROM messages WHERE tenant_id = ",
            $tenant,
            " AND pack_id = ",
            $pack,
            " UNION ALL SELECT pack_offset, pack_length, digest, mailbox_id, uid FROM deleted_messages",
            " WHERE tenant_id = ",
            $tenant,
            " AND pack_id = ",
            $pack
        )
    };
}

/// Tables whose rows follow an entry that is moved.
pub(crate) const MOVING: [&str; 2] = ["messages", "deleted_messages"];

/// Octets of a pack beside its entries: header, footer, trailer, and what the footer says of each entry. A pack of which
/// all but these are garbage is due whatever the ratio.
pub(crate) const AROUND_OCTETS: i64 = 64 + 8 + 40;
/// See [`AROUND_OCTETS`].
pub(crate) const AROUND_ENTRY_OCTETS: i64 = 24;

pub(crate) use {held_by_bulletin, held_by_quarantine, pointers, reachable};
