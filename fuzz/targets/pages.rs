//! Pages of SQLite's file format.
#![no_main]

libfuzzer_sys::fuzz_target!(init: pwal_fuzz::seeds::write(pwal_fuzz::pages::seeds), |data: &[u8]| pwal_fuzz::pages::check(data));
