//! A log of which every state is known, and damage to it.
#![no_main]

libfuzzer_sys::fuzz_target!(init: pwal_fuzz::seeds::write(pwal_fuzz::seeds::histories), |data: &[u8]| pwal_fuzz::histories::check(data));
