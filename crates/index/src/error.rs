//! What a database's error means to us.

use maildrop::{PackId, port::IndexError};

/// Sorts an error by what the caller can do about it.
pub(crate) fn index_error(error: sqlx::Error) -> IndexError {
    if matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) {
        return IndexError::Unreached(Box::new(error));
    }
    let unavailable = match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(e) => e.code().is_some_and(|code| is_passing(&code)),
        _ => false,
    };
    if unavailable { IndexError::Unavailable(Box::new(error)) } else { IndexError::Internal(Box::new(error)) }
}

/// Whether the transaction may succeed when it is simply run again.
pub(crate) fn is_serialization(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|c| c == "40P01" || c == "40001")
}

/// Whether the connection died under the statement, or leads to a server that is no longer the primary. A
/// timeout is none: trying again would only double it.
pub(crate) fn is_dead(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|c| c.starts_with("57P") || c == "25006"),
        _ => false,
    }
}

/// Whether a lock was not to be had in time (`lock_timeout`).
pub(crate) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "55P03")
}

/// Codes of conditions that pass: the server is starting, stopping, full, a replica, or it chose us as the
/// victim of a deadlock.
fn is_passing(code: &str) -> bool {
    // PostgreSQL: 08 connection exception, 53 insufficient resources, 57P operator intervention, 57014 cancelled,
    // 55P03 lock timeout, 25006 read only (a former primary), 40 rollback. SQLite primary result codes: 5 busy, 6 locked, 10 I/O, 13 full,
    // 14 cannot open; extended codes carry the primary one in their low octet.
    match code.parse::<u32>() {
        Ok(sqlite) if code.len() < 5 => matches!(sqlite & 0xff, 5 | 6 | 10 | 13 | 14),
        _ => {
            ["08", "53", "57P", "40"].iter().any(|class| code.starts_with(class))
                || code == "25006"
                || code == "57014"
                || code == "55P03"
        }
    }
}

/// A value in a row that cannot be.
pub(crate) fn corrupt(what: &'static str) -> IndexError {
    IndexError::Internal(what.into())
}

/// Rows for a pack so old that it may have been swept.
pub(crate) fn too_old(pack: PackId) -> IndexError {
    let time = pack.time();
    IndexError::Internal(format!("pack {pack} is of {time}, too old for rows: is a clock wrong?").into())
}

/// A row that cannot be, within a transaction.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` gives")]
pub(crate) fn undecodable(error: IndexError) -> sqlx::Error {
    sqlx::Error::Decode(error.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted() {
        for passing in
            ["08006", "57P01", "57P03", "53300", "25006", "40P01", "57014", "55P03", "5", "13", "266"]
        {
            assert!(is_passing(passing), "{passing}");
        }
        for lasting in ["23505", "42P01", "22001", "19", "1"] {
            assert!(!is_passing(lasting), "{lasting}");
        }
    }
}
