//! What lies in files and in shared memory: the records of the format, and the control block.

mod control_block;
mod decode_arbitrary;
mod freelist;
mod golden;
mod interior;
mod mutants;
mod pages;
