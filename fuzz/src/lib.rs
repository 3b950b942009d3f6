//! What the fuzz targets check, and the inputs that they begin with.
//!
//! - [`records`]: every decoder of bytes and names, by itself;
//! - [`words`]: a `control` file with other words in it;
//! - [`images`]: any database file with any log directory beside it;
//! - [`pages`]: pages of a database file;
//! - [`interiors`]: an interior page that two transactions have changed;
//! - [`histories`]: a log of which every state is known, and damage to it.

pub mod histories;
pub mod images;
pub mod input;
pub mod interiors;
pub mod memory;
pub mod pages;
pub mod records;
pub mod seeds;
pub mod words;
