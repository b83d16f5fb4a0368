//! Power cuts under what writes to disk: nothing that was acknowledged may be lost, and everything must
//! open again.
//!
//! Needs root and loop devices (see `ashlar_tests::powercut`). A machine without them fails this test
//! unless `ASHLAR_NO_LOOP_DEVICES=1` says that it is known.
//!
//! ```text
//! cargo test -p ashlar-tests --test powercut [cold|directory]    ASHLAR_CUTS=100 for more than 20 each
//! ```

mod cold;
mod directory;

use ashlar_tests::powercut::Rig;

/// Cuts of each workload.
fn cuts() -> usize {
    std::env::var("ASHLAR_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(20)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, rest @ ..] = args.as_slice()
        && role == "child"
    {
        return child(rest);
    }
    if args.iter().any(|arg| arg == "--list") {
        return;
    }
    if let Err(reason) = Rig::new("try") {
        eprintln!("NO POWER IS CUT: this machine cannot mount a loop device: {reason}");
        let known = std::env::var("ASHLAR_NO_LOOP_DEVICES").is_ok_and(|value| value == "1");
        assert!(known, "set ASHLAR_NO_LOOP_DEVICES=1 where that is known");
        return;
    }
    let wanted = |name: &str| {
        let mut names = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|arg| name.contains(arg.as_str()))
    };
    for (name, run) in cold::WORKLOADS.into_iter().chain(directory::WORKLOADS) {
        if wanted(name) {
            println!("{name}: {}", run(cuts()));
        }
    }
}

/// What a child process does: `child WORKLOAD ARGUMENTS`.
fn child(args: &[String]) {
    match args {
        [workload, rest @ ..] if workload == "cold" => cold::child(rest),
        [workload, rest @ ..] if workload == "directory" => directory::child(rest),
        _ => panic!("there is no such workload: {args:?}"),
    }
}
