//! Schema versions: migrations are applied by `postern migrate` (or at start, embedded), never behind the
//! back of a running cluster.

use sqlx::migrate::Migrator;

/// The schema this binary was written for.
pub const SCHEMA_VERSION: i32 = 16;

pub(crate) static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres");

/// Why a database cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// There is no schema, or an older one.
    #[error("schema version is {found}, this binary needs {SCHEMA_VERSION}: run `postern migrate`")]
    Older {
        /// The version found; 0 where there is none.
        found: i32,
    },
    /// The schema has moved past what this binary can work with.
    #[error(
        "schema is newer than this binary: it needs schema version {compatible_from} or later, this binary has {SCHEMA_VERSION}"
    )]
    Newer {
        /// The oldest schema version a binary must know.
        compatible_from: i32,
    },
    /// The database's settings would break a promise.
    #[error("{0}")]
    Unsuitable(String),
    /// The migrations could not be applied.
    #[error("migration failed")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The database does not answer, or not as it should.
    #[error("database")]
    Database(#[from] sqlx::Error),
}

/// Decides whether this binary may serve on a schema.
pub(crate) fn check(found: Option<(i32, i32)>) -> Result<(), SchemaError> {
    match found {
        None => Err(SchemaError::Older { found: 0 }),
        Some((_, compatible_from)) if compatible_from > SCHEMA_VERSION => {
            Err(SchemaError::Newer { compatible_from })
        }
        Some((version, _)) if version < SCHEMA_VERSION => Err(SchemaError::Older { found: version }),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_schemas_are_told_apart() {
        assert!(check(Some((SCHEMA_VERSION, 1))).is_ok());
        assert!(check(Some((SCHEMA_VERSION + 1, SCHEMA_VERSION))).is_ok());
        assert!(matches!(check(None), Err(SchemaError::Older { found: 0 })));
        assert!(matches!(check(Some((0, 0))), Err(SchemaError::Older { .. })));
        assert!(matches!(
            check(Some((SCHEMA_VERSION + 1, SCHEMA_VERSION + 1))),
            Err(SchemaError::Newer { .. })
        ));
    }
}
