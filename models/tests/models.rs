//! Every model, in its short form.

macro_rules! models {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                pwal_models::models::$name();
            }
        )*
    };
}

models! {
    one_is_inside
    a_release_wakes_who_waits
    a_dead_owner_is_followed_by_one
    an_incarnation_is_not_its_predecessor
    all_are_woken
    all_become_durable
    all_that_wait_for_something_are_woken
    a_commit_is_whole_or_absent
    the_pages_are_those_of_the_commit
    an_epoch_is_whole_or_absent
    the_last_is_always_there
    visible_arrives
    visible_waits_for_durable
    no_target_passes_a_snapshot
    recycled_slots_are_known
    a_dead_snapshot_is_cleared_once
    an_ended_snapshot_reads_no_later_page
    write_goes_round
    write_goes_round_at_home_too
}
