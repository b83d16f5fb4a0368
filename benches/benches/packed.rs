//! Elements of packed values: what a small hash, set or sorted set is made of.

use std::hint::black_box;

use ashlar_engine::value::packed::{Encoded, IntBuf, read};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const ELEMENTS: usize = 64;

fn texts() -> Vec<String> {
    // Half of them integers, as fields and values often are.
    (0..ELEMENTS)
        .map(|index| if index % 2 == 0 { format!("field:{index}") } else { index.to_string() })
        .collect()
}

fn packed(texts: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in texts {
        Encoded::new(text.as_bytes()).push_to(&mut out);
    }
    out
}

fn encode(criterion: &mut Criterion) {
    let texts = texts();
    let mut group = criterion.benchmark_group("packed");
    group.throughput(Throughput::Elements(ELEMENTS as u64));
    group
        .bench_function("encode 64 elements", |bencher| bencher.iter(|| packed(black_box(&texts))));
    group.finish();
}

fn walk(criterion: &mut Criterion) {
    let bytes = packed(&texts());
    let mut group = criterion.benchmark_group("packed");
    group.throughput(Throughput::Elements(ELEMENTS as u64));
    group.bench_function("read 64 elements", |bencher| {
        bencher.iter(|| {
            let (mut at, mut total) = (0, 0);
            while let Some((element, next)) = read(black_box(&bytes), at) {
                total += element.as_bytes(&mut IntBuf::new()).len();
                at = next;
            }
            total
        });
    });
    group.finish();
}

fn find(criterion: &mut Criterion) {
    let texts = texts();
    let bytes = packed(&texts);
    let mut group = criterion.benchmark_group("packed");
    for index in [0, ELEMENTS - 2, ELEMENTS - 1] {
        group.bench_function(format!("find element {index} of 64"), |bencher| {
            bencher.iter(|| {
                let wanted = Encoded::new(black_box(texts[index].as_bytes()));
                let mut at = 0;
                while let Some((_, next)) = read(&bytes, at) {
                    if bytes.get(at..next).is_some_and(|element| wanted.matches(element)) {
                        return Some(at);
                    }
                    at = next;
                }
                None
            });
        });
    }
    group.finish();
}

criterion_group!(benches, encode, walk, find);
criterion_main!(benches);
