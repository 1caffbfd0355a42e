use super::*;

fn id(name: &str) -> ServerId {
    ServerId::parse(name).unwrap()
}

struct Story {
    liveness: Liveness,
    start: Instant,
}

impl Story {
    fn of(members: &[&str]) -> Self {
        let start = Instant::now() + Duration::from_hours(1);
        let mut story = Self { liveness: Liveness::new(id("own"), start), start };
        story.members(members, 0);
        story
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn members(&mut self, members: &[&str], ms: u64) {
        let members = members.iter().map(|name| id(name)).collect();
        self.liveness.follow(&members, self.at(ms));
    }

    fn hears(&mut self, server: &str, others: &[(&str, u64)], ms: u64) {
        let others: Vec<_> =
            others.iter().map(|(name, age)| (id(name), Duration::from_millis(*age))).collect();
        self.liveness.told(&id(server), Standing::default(), &others, self.at(ms));
    }

    /// Ticks go on from one moment to another, as they do while the process runs.
    fn runs(&mut self, from_ms: u64, to_ms: u64) {
        for ms in (from_ms..=to_ms).step_by(250) {
            self.liveness.tick(self.at(ms));
        }
    }

    fn silence_ms(&self, server: &str) -> u128 {
        self.liveness.silence(&id(server)).as_millis()
    }
}

#[test]
fn a_member_is_silent_after_three_heartbeats_and_live_again_at_its_next_word() {
    let mut story = Story::of(&["own", "a"]);
    story.hears("a", &[], 500);
    story.runs(500, 3_250);
    assert!(story.liveness.is_live(&id("a")), "{} ms", story.silence_ms("a"));
    story.runs(3_500, 3_500);
    assert!(!story.liveness.is_live(&id("a")));
    assert!(story.liveness.heard(&id("a"), story.at(3_600)), "that it is back is worth telling at once");
    assert!(story.liveness.is_live(&id("a")));
}

#[test]
fn a_new_member_has_the_same_time_to_be_heard_and_is_not_taken_for_heard_meanwhile() {
    let mut story = Story::of(&["own", "a"]);
    story.runs(0, 2_000);
    assert!(story.liveness.is_live(&id("a")));
    assert!(!story.liveness.is_heard(&id("a")));
    assert_eq!(story.liveness.well().count(), 0);
    story.runs(2_250, 3_000);
    assert!(!story.liveness.is_live(&id("a")));
}

#[test]
fn a_server_that_another_one_hears_is_live_though_not_heard_here() {
    let mut story = Story::of(&["own", "a", "b"]);
    for ms in (0..10_000).step_by(500) {
        story.hears("a", &[("b", 200)], ms);
    }
    assert!(story.liveness.is_live(&id("b")) && !story.liveness.is_heard(&id("b")));
    assert_eq!(story.silence_ms("b"), 200);
    // Once who told it is silent itself, its word counts no longer.
    story.runs(9_750, 12_750);
    assert!(!story.liveness.is_live(&id("a")) && !story.liveness.is_live(&id("b")));
}

#[test]
fn after_a_pause_of_this_server_those_who_were_live_get_the_whole_time_and_the_silent_stay_silent() {
    let mut story = Story::of(&["own", "a", "b", "c"]);
    story.hears("a", &[("c", 0)], 0);
    story.hears("b", &[], 0);
    story.runs(0, 3_000);
    story.hears("a", &[("c", 100)], 3_000);
    assert!(!story.liveness.is_live(&id("b")));
    // Thirty seconds without a tick.
    story.runs(33_000, 35_750);
    assert!(story.liveness.is_live(&id("a")) && story.liveness.is_heard(&id("a")));
    assert!(story.liveness.is_live(&id("c")) && !story.liveness.is_heard(&id("c")));
    assert!(!story.liveness.is_live(&id("b")));
    let told: Vec<_> = story.liveness.ages(story.at(35_750)).collect();
    assert!(
        told.contains(&(&id("a"), Duration::from_millis(32_750))),
        "what was not heard is not told: {told:?}"
    );
    story.runs(36_000, 36_250);
    assert!(!story.liveness.is_live(&id("a")) && !story.liveness.is_live(&id("c")));
}

#[test]
fn who_left_the_roster_is_known_for_as_long_as_it_is_heard() {
    let mut story = Story::of(&["own", "a", "b"]);
    story.hears("a", &[], 0);
    story.members(&["own"], 100);
    assert_eq!(story.liveness.others().collect::<Vec<_>>(), [&id("a")], "b was never heard");
    story.runs(250, 2_750);
    assert!(story.liveness.is_live(&id("a")));
    story.runs(3_000, 3_000);
    assert_eq!(story.liveness.others().count(), 0);
    assert_eq!(story.liveness.silence(&id("a")), Duration::MAX);
}

#[test]
fn the_suspended_and_the_draining_are_live_but_not_well() {
    let mut story = Story::of(&["own", "a", "b"]);
    let suspended = Standing { suspended: true, draining: false };
    assert!(story.liveness.told(&id("a"), suspended, &[], story.at(0)));
    assert!(!story.liveness.told(&id("a"), suspended, &[], story.at(1)), "nothing turned");
    story.hears("b", &[], 1);
    assert_eq!(story.liveness.well().collect::<Vec<_>>(), [&id("b")]);
    assert!(story.liveness.is_live(&id("a")));
}

#[test]
fn this_server_is_never_silent_and_strangers_always_are() {
    let mut story = Story::of(&["own", "a"]);
    story.hears("stranger", &[("a", 0)], 0);
    story.hears("a", &[("stranger", 0), ("own", 0), ("a", 0)], 0);
    assert_eq!(story.silence_ms("own"), 0);
    assert_eq!(story.liveness.silence(&id("stranger")), Duration::MAX);
    assert_eq!(story.liveness.others().count(), 1);
}
