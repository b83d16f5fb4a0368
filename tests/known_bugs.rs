//! The tests are tested: bugs that were there once, or are easily made, are put back one by one, and
//! the golden scripts or the check of determinism must find each. What the comparison with
//! redis-server finds is tested with faults of a redis-server, see `differential/harness.rs`.

use ashlar_engine::engine::EngineOptions;
use ashlar_engine::known_bugs::{ALL, Bug, put_back};
use ashlar_tests::golden::run_all;
use ashlar_tests::host::InProcess;
use ashlar_tests::process::workspace;
use ashlar_tests::resp::words;

#[test]
fn golden_scripts_find_them() {
    let dir = workspace().join("engine/tests/golden");
    for bug in ALL {
        put_back(Some(bug));
        let mut host = InProcess::new(EngineOptions::default());
        let failures = run_all(&dir, &mut host).expect("the scripts can be read").1;
        put_back(None);
        // Another choice at random is as good for a script, which has one engine only.
        let expected = bug != Bug::RandomOutsideStamp;
        assert!(!failures.is_empty() || !expected, "{bug:?} was not found");
    }
}

#[test]
fn engines_that_draw_differently_are_told_apart() {
    let mut engines = [(); 2].map(|()| InProcess::new(EngineOptions::default()));
    let lines = ["SADD s a b c d e f g h i j k l m n o p", "SPOP s 4", "SPOP s 4"];
    let mut differ = |bug| {
        put_back(bug);
        let mut run = |line: &str| {
            let [one, other] = &mut engines;
            one.run(&words(line)) != other.run(&words(line))
        };
        let differ = lines.map(&mut run).contains(&true);
        put_back(None);
        differ || engines[0].engine.digest() != engines[1].engine.digest()
    };
    assert!(!differ(None));
    assert!(differ(Some(Bug::RandomOutsideStamp)));
}
