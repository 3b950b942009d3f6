//! The control block that processes share, with anything in them.
#![no_main]

libfuzzer_sys::fuzz_target!(init: pwal_fuzz::seeds::write(pwal_fuzz::seeds::control), |data: &[u8]| pwal_fuzz::words::check(data));
