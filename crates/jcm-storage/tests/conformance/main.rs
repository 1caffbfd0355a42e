//! One suite for every store: what the contract says, tried on each backend alike.
//!
//! A backend joins with a type that makes empty stores (see `backends`) and one line in `conformance!` below.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backends;
mod commits;
mod definitions;
mod embedded;
mod ensemble;
mod faults;
mod feeds;
mod random;
mod restores;
mod written;
mod zookeeper;
mod zookeeper_identity;
mod zookeeper_restores;

/// Every check of the suite, for each of the backends.
macro_rules! conformance {
    ($($backend:ident = $kind:ty;)+) => {
        $(mod $backend {
            conformance!(@checks $kind;
                definitions::an_empty_store_is_at_revision_zero
                definitions::what_was_committed_is_loaded_with_births_and_with_what_was_left_out
                definitions::a_cluster_that_was_deleted_and_created_again_is_a_new_one
                definitions::a_cluster_that_is_created_over_an_old_one_keeps_none_of_its_nodes
                definitions::a_new_check_is_noted_with_its_revision
                definitions::names_that_begin_alike_are_kept_apart
                commits::a_stale_head_is_a_conflict_and_changes_nothing
                commits::a_head_that_is_settled_stays_and_the_next_commit_is_taken
                commits::many_clusters_in_one_transaction_are_all_there_or_none
                commits::operations_come_back_oldest_first
                commits::an_oversized_transaction_is_refused_with_both_sizes
                commits::a_transaction_that_packs_well_may_be_larger_than_the_limit
                commits::a_transaction_with_other_revisions_is_refused_untouched
                commits::concurrent_committers_lose_no_update_and_number_without_a_gap
                commits::a_commit_goes_on_when_its_sender_stops_waiting
                feeds::a_feed_from_any_revision_has_no_gap
                feeds::a_feed_sees_the_commits_to_come
                feeds::a_feed_that_asks_for_what_never_was_is_reset
                feeds::a_feed_ends_with_its_store
                feeds::a_follower_far_behind_still_gets_everything
                feeds::a_load_and_its_feed_meet_without_a_gap_under_writes
                restores::a_restore_puts_all_of_it_in_place_under_a_new_identity
                restores::a_restore_resets_every_feed_and_what_follows_begins_above
                restores::what_was_worked_out_before_a_restore_is_refused_whatever_the_revisions
                restores::a_restore_of_what_is_no_set_of_definitions_changes_nothing
                random::any_history_leaves_what_its_changes_say
            );
        })+
    };
    (@checks $kind:ty; $($module:ident :: $check:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $check() {
            crate::$module::$check(&<$kind>::default()).await;
        })+
    };
}

conformance! {
    memory = crate::backends::Memory;
    embedded_file = crate::backends::Embedded;
    zookeeper_ensemble = crate::ensemble::Ensemble;
}
