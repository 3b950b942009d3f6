//! `libpwal.so`: entry points only.
