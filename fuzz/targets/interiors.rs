//! Interior pages that two transactions have changed.
#![no_main]

libfuzzer_sys::fuzz_target!(init: pwal_fuzz::seeds::write(pwal_fuzz::interiors::seeds), |data: &[u8]| pwal_fuzz::interiors::check(data));
