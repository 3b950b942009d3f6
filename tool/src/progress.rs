//! Progress of a recovery: a disk that counts what is read from the log.

use indicatif::{ProgressBar, ProgressStyle};
use pwal::internal::disk::RealDisk;
use pwal::internal::disk::fault::Operation;
use pwal::internal::disk::hooked::{Call, Hook, HookedDisk};
use std::io;
use std::sync::Arc;

/// The real disk, and a bar for a log of `log_bytes` bytes that moves with what is read; on a terminal only.
pub fn watched_disk(log_bytes: u64) -> (Arc<HookedDisk>, ProgressBar) {
    let bar = ProgressBar::new(log_bytes);
    bar.set_style(style("{msg} {wide_bar} {bytes}/{total_bytes}"));
    bar.set_message("reading the log");
    (Arc::new(HookedDisk::new(Arc::new(RealDisk), Arc::new(Reads(bar.clone())))), bar)
}

/// A spinner for work whose end is not known; on a terminal only.
pub fn spinner(message: String) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(style("{spinner} {msg} {elapsed}"));
    spinner.set_message(message);
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What is read moves the bar.
#[derive(Debug)]
struct Reads(ProgressBar);

impl Hook for Reads {
    fn after(&self, call: &Call<'_>) -> io::Result<()> {
        let Reads(bar) = self;
        if call.operation != Operation::Read {
            return Ok(());
        }
        bar.inc(call.bytes as u64);
        // Every segment is read once to look at it; what is read then is checked and replayed.
        if bar.length().is_some_and(|length| bar.position() > length) {
            bar.unset_length();
            bar.set_style(style("{spinner} {msg} {bytes} {elapsed}"));
            bar.set_message("checking and replaying");
        }
        Ok(())
    }
}
