//! Spill files: the frames of transactions that outgrew their lane.

use super::Engine;
use super::frames::FileId;
use crate::disk::{LogFile, OpenHow};
use crate::log::format;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

impl Engine {
    /// A new spill file and its number. It is nobody's until a batch names it.
    ///
    /// # Errors
    /// Any error of the medium.
    pub(crate) fn create_spill(&self) -> io::Result<(u32, Arc<dyn LogFile>)> {
        let number = u32::try_from(self.marks.words().give_spill_number()).map_err(io::Error::other)?;
        self.dir.create()?;
        let file = self.dir.open(&format::spill_name(self.log_id, number), OpenHow::CreateNew)?;
        self.frames.write().add_file(FileId::Spill(number), &file);
        self.counters.spills.fetch_add(1, SeqCst);
        Ok((number, file))
    }

    /// The transaction rolled back. A file that cannot be deleted now goes at the next open.
    pub(crate) fn remove_spill(&self, number: u32) {
        self.frames.write().remove_file(FileId::Spill(number));
        if let Err(error) = self.dir.remove(&format::spill_name(self.log_id, number)) {
            let text = format!("pwal: {}: a spill file stays for now: {error}", self.path.display());
            self.context.host.log(crate::sqlite::Code::IOERR_DELETE.number(), &text);
        }
    }
}
