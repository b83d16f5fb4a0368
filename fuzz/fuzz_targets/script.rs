#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ashlar_tests::fuzz_targets::script(data));
