//! The parser of requests.

use ashlar_server::resp::decode::{Limits, Parsed, parse};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

fn parser(c: &mut Criterion) {
    let limits = Limits { authenticated: true, bulk_bytes_max: 512 << 20 };
    let get = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000042\r\n".to_vec();
    let mut mset = b"*21\r\n$4\r\nMSET\r\n".to_vec();
    for number in 0..10 {
        mset.extend_from_slice(format!("$16\r\nkey:{number:012}\r\n$3\r\nxxx\r\n").as_bytes());
    }
    let inline = b"PING\r\n".to_vec();
    let mut group = c.benchmark_group("parse");
    for (name, request) in [("get", get), ("mset of 10", mset), ("inline ping", inline)] {
        group.throughput(Throughput::Bytes(request.len() as u64));
        group.bench_function(name, |b| {
            let mut args = Vec::new();
            b.iter(|| {
                args.clear();
                let parsed = parse(black_box(&request), 0, limits, &mut args);
                assert_eq!(parsed, Ok(Parsed::Request(request.len())));
                black_box(&args);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parser);
criterion_main!(benches);
