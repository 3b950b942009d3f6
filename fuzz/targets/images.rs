//! Any database file with any log directory beside it.
#![no_main]

libfuzzer_sys::fuzz_target!(init: pwal_fuzz::seeds::write(pwal_fuzz::seeds::images), |data: &[u8]| pwal_fuzz::images::check(data));
