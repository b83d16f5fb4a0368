use super::*;
use crate::config::EngineConfig;

fn refused(kind: u8, body: &[u8]) -> String {
    match decode(kind, body, &EngineConfig::default()) {
        Ok(_) => panic!("type {kind} was read from {} bytes", body.len()),
        Err(malformed) => malformed.to_string(),
    }
}

#[test]
fn sizes_that_overflow_are_refused() {
    let huge = [0x81, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    for kind in (0..=25).filter(|kind| *kind != 8) {
        refused(kind, &huge);
        refused(kind, &[0x80, 0x7F, 0xFF, 0xFF, 0xFF, 1, b'a', 1, b'b']);
    }
    // A compressed string that claims to be huge.
    let mut lzf = vec![0xC3, 2];
    lzf.extend_from_slice(&[0x80, 0x1F, 0xFF, 0xFF, 0xFF, 0, b'a']);
    assert!(refused(kind::STRING, &lzf).contains("compressed"));
    // Sizes whose sum overflows.
    let mut listpack = [0xFF; 11];
    listpack[6..].copy_from_slice(&[0xF0, 0xFF, 0xFF, 0xFF, 0xFF]);
    refused(kind::HASH_LISTPACK, &[&[11], &listpack[..]].concat());
}

#[test]
fn elements_that_are_there_twice_are_refused() {
    let twice = "an element is there twice";
    assert_eq!(refused(kind::SET, &[2, 1, b'a', 1, b'a']), twice);
    assert_eq!(refused(kind::HASH, &[2, 1, b'a', 1, b'x', 1, b'a', 1, b'y']), twice);
    let zset = [&[2, 1, b'a'][..], &1f64.to_le_bytes(), &[1, b'a'], &2f64.to_le_bytes()].concat();
    assert_eq!(refused(kind::ZSET_2, &zset), twice);
    // Many, so that the large forms are met.
    let many: Vec<u8> = (0..1000u16).flat_map(|n| [2, b'a' + (n % 4) as u8, n as u8]).collect();
    assert_eq!(refused(kind::SET, &[&[0x43, 0xE8], &many[..]].concat()), twice);
}

#[test]
fn empty_and_wrong_collections_are_refused() {
    for kind in [kind::LIST, kind::SET, kind::ZSET, kind::ZSET_2, kind::HASH] {
        assert_eq!(refused(kind, &[0]), "a collection is empty");
    }
    let nan = [&[1, 1, b'a'][..], &f64::NAN.to_le_bytes()].concat();
    assert_eq!(refused(kind::ZSET_2, &nan), "a score is no number");
    assert!(refused(kind::STRING, &[1, b'a', b'b']).contains("more than"));
    assert!(refused(kind::MODULE_2, &[0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0]).contains("AAAAAAAAA"));
    assert!(refused(26, &[]).contains("unknown type 26"));
}

#[test]
fn wrong_lengths_in_a_ziplist_are_refused() {
    // bytes, offset of the last, count, then "ab" and 5.
    let good = [
        &17u32.to_le_bytes()[..],
        &14u32.to_le_bytes(),
        &2u16.to_le_bytes(),
        &[0, 2, b'a', b'b', 4, 0xF6, 0xFF],
    ];
    let good = good.concat();
    let wrap = |ziplist: &[u8]| [&[ziplist.len() as u8], ziplist].concat();
    let config = EngineConfig::default();
    assert!(decode(kind::HASH_ZIPLIST, &wrap(&good), &config).is_ok());
    // Its own length, the offset of the last element, the count, the lengths of the elements and
    // of the ones before them, the mark at the end.
    for at in [0, 3, 4, 8, 10, 11, 14, 16] {
        for change in [1u8, 0x7F, 0x80, 0xFF] {
            let mut bad = good.clone();
            bad[at] = bad[at].wrapping_add(change);
            assert!(
                decode(kind::HASH_ZIPLIST, &wrap(&bad), &config).is_err(),
                "byte {at} plus {change}"
            );
        }
    }
}

#[test]
fn a_payload_needs_its_version_and_checksum() {
    let mut payload = vec![kind::STRING, 1, b'a'];
    seal(&mut payload);
    assert_eq!(open(&payload), Some((kind::STRING, &[1, b'a'][..])));
    for at in 0..payload.len() {
        let mut bad = payload.clone();
        bad[at] ^= 1;
        assert_eq!(open(&bad), None, "byte {at}");
        assert_eq!(open(&payload[..at]), None);
    }
}

#[test]
fn a_stream_is_cut_into_records() {
    let mut writer = Writer::new(Vec::new()).unwrap();
    writer.aux("redis-ver", "7.0.15").unwrap();
    writer.function(b"#!lua name=x").unwrap();
    writer.select(3, 2, 1).unwrap();
    let long = vec![b'v'; 300_000];
    let mut value = vec![kind::STRING];
    encode::push_plain(&mut value, &long);
    writer.entry(b"long", &value, None, Use::IdleSeconds(7)).unwrap();
    writer.entry(b"12", &[kind::SET, 1, 0xC0, 5], Some(99), Use::Frequency(8)).unwrap();
    let file = writer.finish().unwrap();
    for step in [1, 7, 100_000, usize::MAX] {
        let mut reader = Reader::new(Slow(&file, step)).unwrap();
        let mut seen = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            seen.push(match record {
                Record::Entry(entry) => {
                    let key = String::from_utf8_lossy(entry.key).into_owned();
                    let Entry { kind, body, expiry_ms, idle_seconds, frequency, .. } = entry;
                    let used = (idle_seconds, frequency);
                    format!("{key} {kind} {} {expiry_ms:?} {used:?}", body.len())
                }
                other => format!("{other:?}").split('[').next().unwrap().to_string(),
            });
        }
        let expected = [
            "Aux(",
            "Function(",
            "Db(3)",
            "Sizes(2, 1)",
            "long 0 300005 None (Some(7), None)",
            "12 2 3 Some(99) (None, Some(8))",
        ];
        assert_eq!(seen, expected);
        assert_eq!(reader.position(), file.len() as u64);
    }
    for at in [5, 30, file.len() - 1] {
        let mut bad = file.clone();
        bad[at] ^= 1;
        assert!(read_all(&bad).is_err(), "byte {at}");
    }
    for end in (0..200).chain([file.len() - 1]) {
        assert!(read_all(&file[..end]).is_err());
    }
}

fn read_all(file: &[u8]) -> Result<(), ReadError> {
    let mut reader = Reader::new(file)?;
    while reader.next_record()?.is_some() {}
    Ok(())
}

/// Gives a few bytes at a time.
struct Slow<'a>(&'a [u8], usize);

impl std::io::Read for Slow<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let count = self.1.min(buf.len()).min(self.0.len());
        let (given, rest) = self.0.split_at(count);
        buf[..count].copy_from_slice(given);
        self.0 = rest;
        Ok(count)
    }
}
