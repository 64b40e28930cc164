//! What a node makes sure of before it serves.

use maildrop::port::IndexError;

use crate::{error::index_error, sqlite::Sqlite};

impl Sqlite {
    pub(super) async fn ready(&self) -> Result<(), IndexError> {
        sqlx::query("SELECT 1").execute(&self.reader).await.map_err(index_error)?;
        Ok(())
    }

    pub(super) async fn key_check(&self, check: &[u8]) -> Result<Vec<u8>, IndexError> {
        sqlx::query("INSERT INTO key_check (only_row, check_value) VALUES (1, ?) ON CONFLICT DO NOTHING")
            .bind(check)
            .execute(&self.writer)
            .await
            .map_err(index_error)?;
        sqlx::query_scalar("SELECT check_value FROM key_check")
            .fetch_one(&self.writer)
            .await
            .map_err(index_error)
    }
}
