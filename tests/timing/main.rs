//! What measures shares of time. Cargo runs one test program after the other, so that nothing else of the tests runs beside
//! this one; in it, one test at a time.

mod polling;
