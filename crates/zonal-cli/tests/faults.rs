//! `TARGET,faults=…`: drives that fail as planned.

mod common;

use common::{Place, noise};

#[test]
fn a_plan_goes_with_any_target_and_info_says_so() {
    let place = Place::with_disk("");
    place.put("log", b"");
    for target in ["disk", "mem:size=64M,zone-size=8M", "file:log"] {
        let words = "fail-write=7,latency=1ms..5ms,seed=3";
        let info = place.json(&format!("info {target},faults={words}"));
        assert_eq!(info["faults"], words, "{target}");
        let text = place.ok(&format!("info {target},faults={words}")).text();
        assert!(text.contains(&format!("fails as planned    {words}\n")), "{text}");
        assert!(place.json(&format!("info {target}")).get("faults").is_none());
    }
}

#[test]
fn a_planned_failure_owns_up_and_the_drive_goes_on_after_it() {
    let place = Place::with_disk("");
    place.put("a", &noise(1, 40_000));
    let failed = place.run("append disk,faults=fail-write=2 a --record 16K --iodepth 1 --zones 0");
    failed.exits(2).says(&[
        "disk,faults=fail-write=2: append: I/O error",
        "zone 0",
        "by its fault plan (fail-write=2)",
    ]);
    assert_eq!(place.zone(0)["wp"], 16 << 10);
    place.ok("append disk a --record 16K");
}

#[test]
fn after_a_planned_cut_the_next_command_finds_a_machine_that_went_down() {
    let place = Place::with_disk("");
    place.put("a", &noise(1, 400_000));
    place.ok("append disk a --record 16K --zones 0");
    let flushed = place.zone(0);
    let cut = place.run("append disk,faults=cut=12,seed=5 a --record 16K --zones 1");
    cut.exits(2).says(&["by its fault plan (cut=12; open the drive again)"]);
    place.ok("flush disk").says(&["the machine went down: every zone goes on from its last flush"]);
    assert_eq!(place.zone(0), flushed);
    place.ok("check disk");
}

#[test]
fn after_a_planned_kill_the_next_command_recovers() {
    let place = Place::with_disk("");
    place.put("a", &noise(1, 400_000));
    let killed =
        place.run("append disk,faults=kill=12 a --record 16K --zones 1 --iodepth 2 --json");
    assert_eq!(killed.code, Some(2), "{}", killed.talk);
    place.ok("flush disk").says(&["after a kill"]);
    let end = killed
        .lines()
        .into_iter()
        .filter_map(|line| Some(line["offset"].as_u64()? + line["length"].as_u64()?));
    let wp = place.zone(1)["wp"].as_u64();
    let end = end.max();
    assert!(end.is_some() && end <= wp, "{wp:?}");
}

#[test]
fn zones_that_have_died_are_left_as_they_are_by_all_and_told_by_append() {
    let place = Place::with_disk("");
    place.put("input", &noise(3, 1 << 20));
    place.ok("append disk input --zones 0..4 --record 64K");
    // An image keeps it.
    place.ok("flush disk,faults=read-only=2,offline=5");
    let reset = place.ok("reset disk --all --yes");
    reset.says(&["left as they are: zones 2 (read-only), 5 (offline)", "reset of 3 zones done"]);
    let states: Vec<_> = (0..4).map(|zone| place.zone(zone)["state"].clone()).collect();
    assert_eq!(states, ["empty", "empty", "read-only", "empty"]);
    // Named, they are refused, with how far it came.
    let named = place.run("reset disk --zones 1..4 --yes").exits(2);
    named.says(&["read-only", "zone 2", "(2 zones done)"]);
    for (zone, state) in [(2, "read-only"), (5, "offline")] {
        let says = [&*format!("no zone takes data: zone {zone} is {state}"), "--zones"];
        place.run(&format!("append disk input --zones {zone}")).exits(2).says(&says);
    }
    place.ok("append disk input --record 64K");
}

#[test]
fn what_is_no_plan_is_refused_by_name_with_all_there_is() {
    let place = Place::with_disk("");
    place.run("info disk,faults=fail-wirte=7").exits(2).says(&[
        "disk,faults=fail-wirte=7",
        "`fail-wirte` is no word of a fault plan; there are seed, fail-write, tear-write",
        "cut and kill",
        "for a file of that name, write disk,faults=fail-wirte=7,faults=",
    ]);
    place.run("info disk,faults=cut=x").exits(2).says(&["`x`", "cut"]);
    place.run("info disk,faults=offline=99").exits(2).says(&["zone 99", "0 to 7"]);
    place.run("info disk,faults=bad=63M..65M").exits(2).says(&["66060288..68157440", "67108864"]);
    place.ok("info disk,faults=bad=63M..64M,bad=1M..2M");
    let twice = ["a fault plan has one `seed`", "leave one out"];
    place.run("info disk,faults=seed=1,cut=9,seed=2").exits(2).says(&twice);
    place.run("sim --runs 1 --faults cut,none").exits(2).says(&["`none` stands alone"]);
}

#[test]
fn commands_that_open_no_drive_say_that_a_plan_does_not_apply() {
    let place = Place::with_disk("");
    for (words, instead) in [
        ("create new,faults=cut=1 --size 64M", "name it where the drive is used"),
        ("adopt disk,faults=cut=1", "name it where the drive is used"),
        ("check disk,faults=cut=1", "leave the plan out"),
    ] {
        let says = ["the fault plan `cut=1` does not apply here", instead];
        place.run(words).exits(2).says(&says);
    }
    assert!(!place.path("new,faults=cut=1").exists() && !place.path("new").exists());
}

#[test]
fn a_file_whose_name_looks_like_a_plan_can_be_reached() {
    let place = Place::new();
    place.ok("create odd,faults=x,faults= --size 64M --zone-size 8M");
    assert!(place.path("odd,faults=x").exists());
    place.run("info odd,faults=x").exits(2).says(&["write odd,faults=x,faults="]);
    let info = place.json("info odd,faults=x,faults=");
    assert_eq!(info["target"], "odd,faults=x,faults=");
    let info = place.json("info odd,faults=x,faults=cut=9");
    assert_eq!(
        (&info["target"], &info["faults"]),
        (&"odd,faults=x,faults=cut=9".into(), &"cut=9".into())
    );
    place.ok("check odd,faults=x,faults=");
}
