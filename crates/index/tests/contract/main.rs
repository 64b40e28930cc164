//! The contract of the ports `Index` and `Directory`: one suite, run on SQLite and on PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on says so"
)]

mod backend;
mod deliver;
mod directory;
mod fixture;
mod locks;
mod postgres_only;
mod update;

/// Makes each contract a test on each adapter.
macro_rules! contract {
    ($($module:ident::$name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let backend = crate::backend::Backend::sqlite().await;
                crate::$module::$name(&backend).await;
                backend.end().await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let backend = crate::backend::Backend::postgres().await;
                crate::$module::$name(&backend).await;
                backend.end().await;
            })+
        }
    };
}

contract! {
    directory::names_are_unique,
    directory::lists_are_paged,
    directory::accounts_and_recipients_are_found,
    directory::passwords_change_with_their_version,
    directory::deletions_are_whole,
    directory::tenants_do_not_meet,
    directory::changes_are_audited,
    directory::the_key_check_keeps_the_first,
    deliver::rows_uids_and_counters_agree,
    deliver::a_repeated_delivery_changes_nothing,
    deliver::quota_holds,
    deliver::a_mailbox_that_is_gone_is_unknown,
    deliver::concurrent_deliveries_get_distinct_uids,
    deliver::listings_keep_order_and_bounds,
    deliver::imported_unique_ids_are_kept,
    locks::one_session_at_a_time,
    locks::a_racing_crowd_has_one_winner,
    locks::opening_again_with_the_token_is_the_same_lock,
    locks::a_stale_credential_does_not_open,
    locks::a_dead_nodes_locks_are_taken_over,
    locks::a_retired_node_holds_nothing,
    locks::a_live_node_keeps_its_locks,
    locks::counters_are_those_after_the_lock,
    update::deletes_and_gives_the_lock_back,
    update::a_lost_lock_deletes_nothing,
    update::what_vanished_is_not_counted_twice,
    update::another_tenants_token_is_no_good,
    update::garbage_is_recorded,
    update::what_is_left_can_be_asked,
    deliver::a_repeated_delivery_of_what_was_deleted_is_no_refusal,
}
