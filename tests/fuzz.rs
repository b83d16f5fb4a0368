//! The fuzz targets, for a bounded time: on the corpus in `fuzz/corpus`, and on mutations of it.
//!
//! A failure prints its seed and leaves the input in a file; put that into the corpus with the fix.

use ashlar_tests::fuzz_targets::{
    acl, decode, execute, image, mutate, payload, rdb_file, reply, script,
};
use ashlar_tests::process::{temporary_dir, workspace};
use ashlar_tests::random::{Random, seeds};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = workspace().join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("a directory entry").path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file of the corpus")).collect()
}

fn run(target: &str, function: fn(&[u8]), inputs: usize) {
    let check = |input: &[u8], from: &str| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| function(input))) {
            let path = temporary_dir().expect("a directory").join(target);
            fs::write(&path, input).expect("the input is kept");
            eprintln!("{target} fails on {} ({from})", path.display());
            resume_unwind(panic);
        }
    };
    let mut corpus = corpus(target);
    assert!(!corpus.is_empty());
    for input in &corpus {
        check(input, "corpus");
    }
    corpus.push(Vec::new());
    for seed in seeds(&[1]) {
        let mut random = Random::new(seed);
        for _ in 0..inputs {
            let (base, other) = (random.below(corpus.len()), random.below(corpus.len()));
            let input = mutate(&mut random, &corpus[base], &corpus[other]);
            check(&input, &format!("ASHLAR_SEED={seed}"));
            // Inputs that grow out of others reach further than those next to the corpus.
            if random.chance(1) && corpus.len() < 500 && input.len() < 4_000 {
                corpus.push(input);
            }
        }
    }
}

#[test]
fn rules_of_users() {
    run("acl", acl, 20_000);
}

#[test]
fn requests() {
    run("decode", decode, 100_000);
}

#[test]
fn replies() {
    run("decode", reply, 20_000);
}

#[test]
fn calls() {
    run("execute", execute, 8_000);
}

#[test]
fn images() {
    run("image", image, 20_000);
}

#[test]
fn payloads() {
    run("payload", payload, 20_000);
}

#[test]
fn rdb_files() {
    run("rdb_file", rdb_file, 20_000);
}

#[test]
fn scripts() {
    run("script", script, 3_000);
}

/// Writes the seeds of the corpus: `cargo test -p ashlar-tests --test fuzz -- --ignored`.
#[test]
#[ignore = "it writes files"]
fn write_seeds() {
    use ashlar_tests::grammar::{Generator, table};
    use ashlar_tests::host::InProcess;
    let keep = |target: &str, name: &str, bytes: &[u8]| {
        let dir = workspace().join("fuzz/corpus").join(target);
        fs::create_dir_all(&dir).expect("the directory");
        fs::write(dir.join(name), bytes).expect("the file");
    };
    let requests: [(&str, &[u8]); 6] = [
        (
            "pipeline",
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nv\r\nal\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        ),
        ("inline", b"PING\r\nSET k \"a\\x41\\n b\" 'c\\'d'\r\n\r\nGET k\n"),
        ("empty", b"*0\r\n*-1\r\n\r\n*1\r\n$0\r\n\r\n"),
        ("large-claims", b"*1048576\r\n$536870912\r\nabc"),
        ("wrong", b"*1\r\n+PING\r\n"),
        ("reply", b"%1\r\n$1\r\na\r\n*3\r\n:-1\r\n,1.5\r\n=5\r\ntxt:x\r\n~1\r\n#t\r\n_\r\n"),
    ];
    requests.iter().for_each(|(name, bytes)| keep("decode", name, bytes));
    let specs: Vec<_> =
        table().into_iter().filter(|spec| !spec.name.starts_with("FLUSH")).collect();
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..300).map(|_| random.bits() as u8).collect();
        keep("execute", &format!("random-{seed}"), &bytes);
        let mut generator = Generator::new(seed);
        let mut host = InProcess::new(Default::default());
        for _ in 0..300 {
            let spec = &specs[generator.random.below(specs.len())];
            host.run(&generator.call(spec));
        }
        keep("image", &format!("random-{seed}"), &host.engine.image()[..]);
    }
}
