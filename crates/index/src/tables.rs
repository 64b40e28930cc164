//! Tables as manifests have them: which columns there are, and of which kind, so that what one adapter wrote another can
//! put back. A test compares them with the schema: whoever adds a column decides whether it is kept.

use std::fmt::Write as _;

/// What a column holds, which both dialects keep in their own ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Uuid,
    Int,
    Bool,
    Text,
    Bytes,
    Time,
    Json,
}

use Kind::{Bool, Bytes, Int, Json, Text, Time, Uuid};

/// A table of a tenant, and its columns but for `tenant_id`.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// What tells its rows apart, the first of which a person knows them by.
    pub(crate) key: &'static [&'static str],
    pub(crate) columns: &'static [(&'static str, Kind)],
    /// Columns that are not kept: counted anew, or of no use in another database.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the test, and for people"))]
    pub(crate) left_out: &'static [&'static str],
}

/// What is kept of a tenant as such. The tenant itself is the first.
pub(crate) const OF_TENANT: [Table; 5] = [
    Table {
        name: "tenants",
        key: &["name"],
        columns: &[
            ("name", Text),
            ("data_key", Bytes),
            ("created_at", Time),
            ("state", Text),
            ("revision", Int),
            ("quota_octets", Int),
            ("quota_messages", Int),
            ("over_allocation_percent", Int),
            ("mailbox_quota_octets", Int),
            ("mailbox_quota_messages", Int),
            ("limits", Json),
            ("policy", Json),
            ("login", Json),
            ("login_secrets", Bytes),
            ("login_version", Int),
            ("bulletins", Int),
            ("buckets", Json),
            ("bucket_key", Bytes),
            ("bucket_secrets", Bytes),
            ("buckets_version", Int),
        ],
        left_out: &[],
    },
    Table {
        name: "domains",
        key: &["name"],
        columns: &[("name", Text), ("alias_of", Text), ("created_at", Time)],
        left_out: &[],
    },
    Table {
        name: "certificates",
        key: &["host"],
        columns: &[
            ("host", Text),
            ("chain", Text),
            ("sealed_key", Bytes),
            ("not_after", Time),
            ("created_at", Time),
        ],
        left_out: &[],
    },
    Table {
        name: "api_keys",
        key: &["key_id"],
        columns: &[
            ("key_id", Uuid),
            ("role", Text),
            ("label", Text),
            ("secret_hash", Bytes),
            ("created_by", Text),
            ("expires_at", Time),
            ("created_at", Time),
        ],
        left_out: &["last_used_at"],
    },
    Table {
        name: "bulletins",
        key: &["bulletin_id"],
        columns: &[
            ("bulletin_id", Uuid),
            ("number", Int),
            ("note", Text),
            ("state", Text),
            ("new_mailboxes", Bool),
            ("expires_at", Time),
            ("pack_id", Uuid),
            ("pack_offset", Int),
            ("pack_length", Int),
            ("octets", Int),
            ("ascii_extra", Int),
            ("header_octets", Int),
            ("digest", Bytes),
            ("reached", Uuid),
            ("delivered", Int),
            ("removed", Int),
            ("created_by", Text),
            ("created_at", Time),
            ("ended_at", Time),
        ],
        left_out: &[],
    },
];

/// The mailbox itself.
pub(crate) const MAILBOXES: Table = Table {
    name: "mailboxes",
    key: &["address", "mailbox_id"],
    columns: &[
        ("mailbox_id", Uuid),
        ("address", Text),
        ("credential_version", Int),
        ("quota_octets", Int),
        ("quota_messages", Int),
        ("next_uid", Int),
        ("created_at", Time),
        ("state", Text),
        ("revision", Int),
        ("policy", Json),
        ("bulletins", Int),
    ],
    // Counted anew; `domain` is made of the address. The password is in `credentials`, which SQLite keeps in here.
    left_out: &["message_count", "octets", "domain", "changes", "manifest_due", "password_hash", "verifiers"],
};

/// Its password. SQLite has these columns in `mailboxes`.
pub(crate) const CREDENTIALS: Table = Table {
    name: "credentials",
    key: &["mailbox_id"],
    columns: &[("mailbox_id", Uuid), ("password_hash", Text), ("verifiers", Bytes)],
    left_out: &[],
};

/// What else is kept of a mailbox.
pub(crate) const OF_MAILBOX: [Table; 2] = [
    Table {
        name: "aliases",
        key: &["address"],
        columns: &[("address", Text), ("mailbox_id", Uuid), ("created_at", Time)],
        left_out: &[],
    },
    Table {
        name: "app_passwords",
        key: &["credential_id"],
        columns: &[
            ("mailbox_id", Uuid),
            ("credential_id", Uuid),
            ("label", Text),
            ("scope", Text),
            ("password_hash", Text),
            ("expires_at", Time),
            ("created_at", Time),
        ],
        left_out: &["last_used_at"],
    },
];

/// Messages, by the fields of [`maildrop::port::MessageRecord`].
pub(crate) const MESSAGES: Table = Table {
    name: "messages",
    key: &["uid"],
    columns: &[
        ("uid", Int),
        ("pack_id", Uuid),
        ("pack_offset", Int),
        ("pack_length", Int),
        ("octets", Int),
        ("header_octets", Int),
        ("received_at", Time),
        ("digest", Bytes),
        ("delivered_to", Text),
        ("unique_id", Text),
        ("ascii_extra", Int),
    ],
    left_out: &["mailbox_id"],
};

impl Table {
    /// Its columns, by a comma.
    pub(crate) fn names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Something of each column, by a comma.
    pub(crate) fn each(&self, of: impl Fn(&str, Kind) -> String) -> String {
        self.columns.iter().map(|(name, kind)| of(name, *kind)).collect::<Vec<_>>().join(", ")
    }
}

/// Octets as records have them.
pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(2 * octets.len()), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn each_column_is_kept_or_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.sqlite");
        drop(crate::Sqlite::open(&path).await.unwrap());
        let url = format!("sqlite:{}", path.display());
        let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
        for table in OF_TENANT.iter().chain(&OF_MAILBOX).chain([&MAILBOXES, &MESSAGES]) {
            let there: BTreeSet<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info(?)")
                .bind(table.name)
                .fetch_all(&pool)
                .await
                .unwrap()
                .into_iter()
                .collect();
            let known: BTreeSet<String> = table
                .columns
                .iter()
                .map(|(name, _)| *name)
                .chain(table.left_out.iter().copied())
                .chain(["tenant_id"])
                .map(str::to_owned)
                .collect();
            let new: Vec<_> = there.difference(&known).collect();
            assert!(new.is_empty(), "{}: {new:?} are neither kept in manifests nor left out", table.name);
            let missing = table.columns.iter().filter(|(name, _)| !there.contains(*name)).count();
            assert_eq!(missing, 0, "{}", table.name);
        }
    }
}
