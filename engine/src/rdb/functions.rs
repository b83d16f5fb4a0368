//! The payload of FUNCTION DUMP: the text of each library behind a mark, then version and checksum.

use super::bytes::Bytes;
use super::{open, seal};

/// The mark of a library, as in an RDB file.
const FUNCTION: u8 = 245;

/// The payload with these libraries.
pub fn encode_functions<'a>(libraries: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut payload = Vec::new();
    for text in libraries {
        payload.push(FUNCTION);
        match u32::try_from(text.len()) {
            Ok(len @ 0..=0x3F) => payload.push(len as u8),
            Ok(len @ 0..=0x3FFF) => payload.extend([0x40 | (len >> 8) as u8, len as u8]),
            len => {
                payload.push(0x80);
                payload.extend(len.unwrap_or(u32::MAX).to_be_bytes());
            }
        }
        payload.extend_from_slice(text);
    }
    seal(&mut payload);
    payload
}

/// The libraries in a payload; `None` if it is none, or not whole.
pub fn decode_functions(payload: &[u8]) -> Option<Vec<Vec<u8>>> {
    if payload == encode_functions([]) {
        return Some(Vec::new());
    }
    let (mut mark, body) = open(payload)?;
    let mut bytes = Bytes::new(body);
    let mut libraries = Vec::new();
    loop {
        if mark != FUNCTION {
            return None;
        }
        libraries.push(bytes.string().ok()?.into_owned());
        if bytes.is_empty() {
            return Some(libraries);
        }
        mark = bytes.take(1).ok()?[0];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_come_back() {
        let long = vec![b'x'; 70_000];
        let texts: [&[u8]; 4] = [b"#!lua name=a\n", &long[..100], &long, b""];
        for count in 0..=texts.len() {
            let payload = encode_functions(texts[..count].iter().copied());
            let back = decode_functions(&payload).unwrap();
            assert_eq!(back, texts[..count].iter().map(|text| text.to_vec()).collect::<Vec<_>>());
            for cut in 0..payload.len().min(200) {
                assert_eq!(decode_functions(&payload[..cut]), None);
            }
        }
    }
}
