//! What a node makes sure of before it serves.

use maildrop::port::IndexError;

use crate::postgres::Postgres;

impl Postgres {
    pub(super) async fn ready(&self) -> Result<(), IndexError> {
        self.repeatable(|| sqlx::query("SELECT 1").execute(&self.pool)).await?;
        Ok(())
    }

    pub(super) async fn key_check(&self, check: &[u8]) -> Result<Vec<u8>, IndexError> {
        self.repeatable(|| {
            sqlx::query("INSERT INTO key_check (check_value) VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(check)
                .execute(&self.pool)
        })
        .await?;
        self.repeatable(|| sqlx::query_scalar("SELECT check_value FROM key_check").fetch_one(&self.pool))
            .await
    }
}
