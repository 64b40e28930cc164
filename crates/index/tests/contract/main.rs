//! The contract of the ports `Index` and `Directory`: one suite, run on SQLite and on PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on says so"
)]

mod access;
mod backend;
mod bulletins;
mod checks;
mod deleted;
mod deliver;
mod directory;
mod failures;
mod fixture;
mod garbage;
mod housekeeping;
mod locks;
mod manifests;
mod postgres_only;
mod records;
mod sessions;
mod takeover;
mod tenancy;
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
    directory::one_tenants_broken_row_is_no_others,
    directory::passwords_change_with_their_version,
    directory::logins_are_set_with_their_version,
    directory::buckets_are_set_with_their_version,
    directory::packs_are_counted_by_the_store_they_name,
    directory::deletions_are_whole,
    directory::a_mailbox_is_deleted_in_steps,
    directory::a_tenants_deletion_takes_deleted_mailboxes_along,
    directory::tenants_do_not_meet,
    directory::changes_are_audited,
    directory::the_key_check_keeps_the_first,
    failures::sources_are_known_for_a_while,
    deliver::rows_uids_and_counters_agree,
    deliver::a_repeated_delivery_changes_nothing,
    deliver::a_pack_of_many_is_one_call,
    deliver::quota_holds,
    deliver::a_mailbox_that_is_gone_is_unknown,
    deliver::concurrent_deliveries_get_distinct_uids,
    deliver::listings_keep_order_and_bounds,
    deliver::imported_unique_ids_are_kept,
    deliver::octets_are_those_of_the_form,
    deliver::views_leave_out_and_arrange,
    locks::one_session_at_a_time,
    locks::a_racing_crowd_has_one_winner,
    locks::opening_again_with_the_token_is_the_same_lock,
    locks::a_stale_credential_does_not_open,
    locks::a_dead_nodes_locks_are_taken_over,
    locks::a_retired_node_holds_nothing,
    locks::a_live_node_keeps_its_locks,
    locks::counters_are_those_after_the_lock,
    takeover::a_silent_clients_lock_is_taken_over,
    takeover::only_the_same_credential_takes_over,
    takeover::of_a_crowd_one_takes_over,
    takeover::a_commit_and_a_taking_over_exclude_each_other,
    update::deletes_and_gives_the_lock_back,
    update::a_lost_lock_deletes_nothing,
    update::what_vanished_is_not_counted_twice,
    update::another_tenants_token_is_no_good,
    update::garbage_is_recorded,
    update::what_is_left_can_be_asked,
    deliver::a_repeated_delivery_of_what_was_deleted_is_no_refusal,
    tenancy::a_tenants_settings_are_kept,
    tenancy::a_mailboxs_settings_are_kept,
    tenancy::a_mailbox_inherits_its_tenants_policy,
    tenancy::suspension_reaches_logins_and_mail,
    tenancy::mailboxes_are_created_one_by_one_in_one_call,
    tenancy::mailboxes_are_searched,
    tenancy::quotas_of_mailbox_and_tenant_hold,
    tenancy::quotas_are_not_given_away_twice,
    access::aliases_lead_to_their_mailboxes,
    access::app_passwords_come_and_go,
    access::api_keys_belong_to_a_tenant_or_to_none,
    access::certificates_belong_to_the_nearest_domain,
    access::of_two_that_lie_within_each_other_one_is_created,
    tenancy::a_tenants_deletion_begins_with_its_key,
    sessions::a_changed_tenant_is_stale,
    sessions::a_login_delay_is_kept,
    sessions::a_tenants_sessions_are_limited,
    sessions::sessions_are_seen_and_ended,
    sessions::suspension_ends_sessions,
    sessions::a_task_has_one_holder,
    deleted::what_is_kept_can_be_restored,
    deleted::what_is_not_kept_is_garbage,
    deleted::old_messages_expire,
    deleted::what_is_kept_of_a_mailbox_is_bounded_by_its_quota,
    deleted::what_is_kept_of_a_tenant_is_bounded_by_its_quota,
    deleted::what_is_kept_is_counted_to_the_end,
    deleted::one_message_is_found_with_its_row,
    records::the_audit_log_says_before_and_after,
    records::a_request_is_claimed_once,
    records::traffic_adds_up,
    records::old_traffic_is_forgotten,
    records::old_audit_entries_are_forgotten_and_young_ones_cannot_be,
    records::finished_deletions_are_forgotten,
    garbage::dead_packs_go_in_steps,
    garbage::what_something_points_at_again_is_not_deleted,
    garbage::rows_follow_what_is_rewritten,
    garbage::sweeps_are_due_once_a_day,
    checks::wrong_counters_are_found_and_mended,
    checks::packs_and_what_points_at_them_are_told,
    manifests::what_changed_is_due_until_it_is_written,
    manifests::what_was_written_is_put_back,
    manifests::what_an_index_that_was_set_back_gave_away_gets_new_uids,
    manifests::who_rebuilds_keeps_everybody_else_from_their_tasks,
    garbage::rows_are_not_made_for_old_packs,
    garbage::an_index_that_was_set_back_holds_what_it_may_have_lost,
    garbage::a_promoted_server_is_noticed,
    bulletins::each_mailbox_gets_it_once,
    bulletins::a_bulletin_is_noted_once,
    bulletins::a_step_that_broke_off_is_done_again,
    bulletins::two_workers_at_once_put_it_once,
    bulletins::mailboxes_come_and_go_while_it_is_on_its_way,
    bulletins::new_mailboxes_get_what_is_for_them,
    bulletins::mailboxes_created_in_the_same_moment_get_it_once,
    bulletins::quotas_do_not_refuse_it_and_counters_are_right,
    bulletins::who_deletes_it_is_not_shown_it_again,
    bulletins::a_withdrawal_takes_it_from_all,
    bulletins::a_withdrawal_and_an_open_session,
    bulletins::a_withdrawal_ends_the_roll_out,
    bulletins::withdrawals_and_commits_at_once_agree,
    bulletins::it_expires,
    bulletins::they_are_listed_and_walled,
    bulletins::there_are_not_too_many_at_once,
    bulletins::a_tenants_deletion_takes_them_along,
    housekeeping::a_bulletin_reaches_everybody_in_the_background,
    housekeeping::rows_of_a_deleted_mailbox_go_in_the_background,
    housekeeping::a_mailbox_that_receives_and_deletes_keeps_no_more_than_its_quota,
    housekeeping::a_deletion_that_fails_hurries_nothing_else,
}
