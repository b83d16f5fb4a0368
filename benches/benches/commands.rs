//! Hot operations of each data type, through the same executor that serves a socket.

use ashlar_engine::Engine;
use ashlar_engine::engine::EngineOptions;
use ashlar_engine::executor::{Call, Executor, Prefetched};
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_engine::stamp::{Rng, Stamp};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// Keys, fields and members to choose from.
const COUNT: usize = 100_000;

fn run(executor: &mut Executor<'_>, out: &mut Vec<u8>, args: &[&[u8]]) {
    let command = Engine::find_command(args).expect("the benchmark calls commands that exist");
    let stamp = Stamp::new(1_700_000_000_000, 7);
    let call = Call { command, args, db: 0, stamp: &stamp, may_block: false, no_touch: false };
    out.clear();
    executor.run(&call, Prefetched::NONE, &mut Reply::new(out, Protocol::Resp2));
    assert!(!out.starts_with(b"-"), "{}", String::from_utf8_lossy(out));
}

/// A call with a random number where its arguments have `#`.
fn fill(form: &str, number: usize) -> Vec<Vec<u8>> {
    let number = format!("{number:012}");
    form.split(' ').map(|word| word.replace('#', &number).into_bytes()).collect()
}

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("commands");
    group.throughput(Throughput::Elements(1));
    for (name, load, form) in [
        ("get", "SET key:# xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "GET key:#"),
        ("set", "SET key:# xxx", "SET key:# yyy"),
        ("incr", "SET counter:# 10", "INCR counter:#"),
        ("hset large", "HSET hash field:# value", "HSET hash field:# other"),
        ("hget large", "HSET hash field:# value", "HGET hash field:#"),
        ("hget small", "HSET hash:# a 1 b 2 c 3 d 4 e 5", "HGET hash:# d"),
        ("setbit", "PING", "SETBIT bits 77777 1"),
        ("pfadd", "PFADD hll member:#", "PFADD hll member:#"),
        ("geopos", "GEOADD places 13.4 52.5 place:#", "GEOPOS places place:#"),
        ("sadd", "SADD set member:#", "SADD set member:#"),
        ("zadd moves", "ZADD zset # member:#", "ZADD zset 50000 member:#"),
        ("zscore", "ZADD zset # member:#", "ZSCORE zset member:#"),
        ("rpush + lpop", "PING", "RPUSH list value:#|LPOP list"),
        ("lrange 100", "RPUSH list value:#", "LRANGE list 0 99"),
        ("xadd", "PING", "XADD stream MAXLEN ~ 1000 * field value:#"),
    ] {
        let engine = Engine::with_options(EngineOptions::default());
        let mut executor = engine.executor();
        let (mut out, mut rng) = (Vec::new(), Rng::new(1));
        for number in (0..COUNT).filter(|_| load != "PING") {
            let args = fill(load, number);
            run(&mut executor, &mut out, &args.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        let calls: Vec<Vec<Vec<Vec<u8>>>> = (0..COUNT)
            .map(|_| {
                let number = rng.below(COUNT);
                form.split('|').map(|form| fill(form, number)).collect()
            })
            .collect();
        let mut next = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                next = (next + 1) % COUNT;
                for call in &calls[next] {
                    let args: smallvec::SmallVec<[&[u8]; 8]> =
                        call.iter().map(Vec::as_slice).collect();
                    run(&mut executor, &mut out, &args);
                }
                black_box(&out);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, commands);
criterion_main!(benches);
