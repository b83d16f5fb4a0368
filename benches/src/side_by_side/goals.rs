//! What ashlar means to reach against redis-server, and what was measured.

use std::collections::BTreeSet;

use crate::results::{Goal, Results, Throughput, middle};
use crate::stats::geometric_mean;

/// redis-benchmark's default tests.
const TESTS: usize = 20;
/// Least throughput, as the geometric mean of the twenty tests, at each pipeline.
const THROUGHPUT: &[(usize, f64)] = &[(1, 1.0), (16, 1.5), (64, 3.0)];
/// Most CPU time a command, likewise.
const CPU: &[(usize, f64)] = &[(1, 0.8), (16, 0.45), (64, 0.25)];
/// Least throughput of redis-server's weak spots, at the longer pipelines.
const WEAK_SPOTS: &[&str] = &["ZADD", "MSET"];
const WEAK_SPOT_PIPELINES: &[usize] = &[16, 64];
const WEAK_SPOT_RATIO: f64 = 3.0;
/// What a short script is to reach, at one pipeline: throughput and CPU time.
const SCRIPT: (&str, usize, f64, f64) = ("EVALSHA", 16, 2.0, 0.5);
/// Least throughput of SET with `appendfsync always`: pipeline, clients, ratio.
const ALWAYS: &[(usize, usize, f64)] = &[(1, 1, 1.2), (1, 50, 1.2), (16, 50, 1.8), (64, 50, 1.8)];
/// Least throughput with `everysec`, as a share of that without a log.
const EVERYSEC: f64 = 0.9;
/// Most bytes a key.
const MEMORY: f64 = 0.6;

/// The goals that the measured figures say something about.
pub fn goals(results: &Results) -> Vec<Goal> {
    let mut goals = Vec::new();
    let of_tests = |pipeline| {
        let names = at(results, pipeline).filter(|test| test.standard).map(|test| &test.test);
        match names.collect::<BTreeSet<_>>().len() {
            TESTS => format!("geometric mean of the {TESTS} tests, pipeline {pipeline}"),
            some => format!("geometric mean of {some} of the {TESTS} tests, pipeline {pipeline}"),
        }
    };
    for &(pipeline, goal) in THROUGHPUT {
        let what = format!("throughput, {}", of_tests(pipeline));
        push(&mut goals, what, goal, true, mean(results, pipeline, throughput_ratio));
    }
    let slowest = results.throughput.iter().filter(|test| test.standard);
    let slowest = slowest
        .filter_map(|test| Some((test, throughput_ratio(test)?)))
        .min_by(|(_, a), (_, b)| a.total_cmp(b));
    if let Some((test, ratio)) = slowest {
        let point = format!("P{} c{} d{}", test.pipeline, test.clients, test.size);
        let what = format!("throughput of the slowest test ({} {point})", test.test);
        push(&mut goals, what, 1.0, true, Some(ratio));
    }
    for &name in WEAK_SPOTS {
        for &pipeline in WEAK_SPOT_PIPELINES {
            let tests = at(results, pipeline).filter(|test| test.test == name);
            let ratio = geometric_mean(tests.filter_map(throughput_ratio));
            let what = format!("throughput of {name}, pipeline {pipeline}");
            push(&mut goals, what, WEAK_SPOT_RATIO, true, ratio);
        }
    }
    let (name, pipeline, throughput, cpu) = SCRIPT;
    let of_script = |ratio: fn(&Throughput) -> Option<f64>| {
        geometric_mean(at(results, pipeline).filter(|one| one.test == name).filter_map(ratio))
    };
    let what = |figure| format!("{figure} of a script of three commands, pipeline {pipeline}");
    push(&mut goals, what("throughput"), throughput, true, of_script(throughput_ratio));
    push(&mut goals, what("CPU"), cpu, false, of_script(cpu_ratio));
    for &(pipeline, goal) in CPU {
        let what = format!("CPU a command, {}", of_tests(pipeline));
        push(&mut goals, what, goal, false, mean(results, pipeline, cpu_ratio));
    }
    let mut pipelines: Vec<_> = results.latency.iter().map(|latency| latency.pipeline).collect();
    pipelines.dedup();
    for pipeline in pipelines {
        let tests = results.latency.iter().filter(|latency| latency.pipeline == pipeline);
        let ratio = geometric_mean(tests.filter_map(|latency| latency.ratio(|run| run.p99_ms)));
        let what = format!("p99 latency at equal load, pipeline {pipeline}");
        push(&mut goals, what, 1.0, false, ratio);
    }
    durability(results, &mut goals);
    for memory in &results.memory {
        let (rss, used) = memory.ratios();
        let what = format!("resident bytes a key: {}", memory.shape);
        push(&mut goals, what, MEMORY, false, Some(rss));
        push(&mut goals, format!("used_memory a key: {}", memory.shape), MEMORY, false, Some(used));
    }
    goals
}

fn durability(results: &Results, goals: &mut Vec<Goal>) {
    let find = |policy: &str, (pipeline, clients)| {
        let same = |one: &&Throughput| (one.pipeline, one.clients) == (pipeline, clients);
        let of_policy = results.durability.iter().filter(move |one| one.policy == policy);
        of_policy.map(|one| &one.throughput).find(same)
    };
    for &(pipeline, clients, goal) in ALWAYS {
        let measured = find("always", (pipeline, clients)).and_then(throughput_ratio);
        let what = format!("SET with appendfsync always, {clients} clients, pipeline {pipeline}");
        push(goals, what, goal, true, measured);
    }
    for &(pipeline, clients, _) in ALWAYS {
        let rps = |policy| {
            find(policy, (pipeline, clients)).and_then(|one| middle(&one.ashlar, |run| run.rps))
        };
        let measured = rps("everysec").zip(rps("none")).map(|(with, without)| with / without);
        let what = format!("SET with everysec to none, {clients} clients, pipeline {pipeline}");
        push(goals, what, EVERYSEC, true, measured);
    }
}

/// The geometric mean of the twenty tests at one pipeline, over every number of clients and size.
pub fn mean(
    results: &Results,
    pipeline: usize,
    ratio: impl Fn(&Throughput) -> Option<f64>,
) -> Option<f64> {
    geometric_mean(at(results, pipeline).filter(|test| test.standard).filter_map(ratio))
}

/// Requests a second, ashlar's to redis-server's.
pub fn throughput_ratio(test: &Throughput) -> Option<f64> {
    test.ratio(|run| run.rps)
}

/// 99th percentile at full load, ashlar's to redis-server's.
pub fn p99_ratio(test: &Throughput) -> Option<f64> {
    test.ratio(|run| run.p99_ms)
}

/// CPU time a command, ashlar's to redis-server's.
pub fn cpu_ratio(test: &Throughput) -> Option<f64> {
    test.ratio(|run| run.cpu_per_million)
}

fn at(results: &Results, pipeline: usize) -> impl Iterator<Item = &Throughput> {
    results.throughput.iter().filter(move |test| test.pipeline == pipeline)
}

fn push(goals: &mut Vec<Goal>, what: String, goal: f64, at_least: bool, measured: Option<f64>) {
    goals.extend(measured.map(|measured| Goal { what, goal, at_least, measured }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Run;

    fn test(name: &str, ratio: f64) -> Throughput {
        let run = |rps, cpu_per_million| Run { rps, cpu_per_million, ..Run::default() };
        Throughput {
            test: name.to_owned(),
            standard: name != "EVALSHA",
            pipeline: 16,
            clients: 50,
            size: 3,
            requests: 1,
            ashlar: vec![run(ratio, 1.0)],
            redis: vec![run(1.0, 4.0)],
        }
    }

    #[test]
    fn goals_are_judged_by_what_was_measured() {
        let throughput = vec![test("ZADD", 4.0), test("GET", 0.25), test("EVALSHA", 1.9)];
        let goals = goals(&Results { throughput, ..Results::default() });
        let find = |start: &str| goals.iter().find(|goal| goal.what.starts_with(start)).unwrap();
        assert!(!find("throughput, geometric mean of 2 of the 20 tests, pipeline 16").met());
        assert!(!find("throughput of the slowest test (GET P16 c50 d3)").met());
        assert!(find("throughput of ZADD, pipeline 16").met());
        assert!(!find("throughput of a script").met() && find("CPU of a script").met());
        assert!(find("CPU a command, geometric mean of 2 of the 20 tests, pipeline 16").met());
        assert!(!goals.iter().any(|goal| goal.what.contains("pipeline 64")));
    }
}
