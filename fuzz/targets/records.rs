//! Every decoder of records, stamps and names.
#![no_main]

libfuzzer_sys::fuzz_target!(init: pwal_fuzz::seeds::write(pwal_fuzz::seeds::records), |data: &[u8]| pwal_fuzz::records::check(data));
