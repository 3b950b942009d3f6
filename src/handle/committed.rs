//! Pages of the database as a commit has left them: from the log's frames, and where none has the page, from the database file.

use super::base::BaseFile;
use super::header::mask;
use crate::engine::{Engine, EngineError, Freelist};
use crate::pages::{Head, PageOne};
use crate::sqlite::Code;
use crate::view::ViewError;
use std::sync::Arc;

/// Why a page could not be read, or not put into the lane of its transaction.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageFailure {
    #[error("{0}")]
    Base(Code),
    #[error(transparent)]
    Engine(EngineError),
    #[error("the spill file of the transaction: {0}")]
    Spill(std::io::Error),
    #[error(transparent)]
    Lane(ViewError),
}

impl From<EngineError> for PageFailure {
    fn from(error: EngineError) -> PageFailure {
        PageFailure::Engine(error)
    }
}

/// The commits of a database, as one connection reads them: by the engine, and by its own file of the base.
pub(super) struct Committed<'a> {
    pub(super) engine: &'a Engine,
    pub(super) base: &'a mut dyn BaseFile,
}

impl Committed<'_> {
    /// A page as it is after commit `sequence`, which is not before the snapshot of this connection.
    pub(super) fn page(&mut self, page: u32, sequence: u64) -> Result<Vec<u8>, PageFailure> {
        let Committed { engine, base } = self;
        let mut image = vec![0; engine.log.page_bytes as usize];
        if let Some(number) = engine.reader.newest_of(page, sequence)?
            && engine.reader.read_frame(number, 0, &mut image)?
        {
            return Ok(image);
        }
        let offset = u64::from(page.saturating_sub(1)) * u64::from(engine.log.page_bytes);
        match base.read(&mut image, offset) {
            Ok(()) | Err(Code::IOERR_SHORT_READ) => {}
            Err(code) => return Err(PageFailure::Base(code)),
        }
        mask(&mut image, offset);
        Ok(image)
    }

    /// Page 1 after commit `sequence`, and the beginning of the freelist. `None`: they are not what SQLite writes.
    pub(super) fn freelist(&mut self, sequence: u64) -> Result<Option<Arc<Freelist>>, PageFailure> {
        let engine = self.engine;
        let number = engine.reader.newest_of(1, sequence)?;
        if let Some(known) = number.and_then(|number| engine.reader.freelist.get(number)) {
            return Ok(Some(known));
        }
        let page_one = self.page(1, sequence)?;
        let Some(parsed) = PageOne::parse(&page_one) else { return Ok(None) };
        let mut head = Head::new(parsed.counters().first_trunk);
        if head.rest() != 0 {
            let trunk = self.page(head.rest(), sequence)?;
            if !head.extend(&trunk, parsed.usable()) {
                return Ok(None);
            }
        }
        let freelist = Arc::new(Freelist { page_one, head });
        if let Some(number) = number {
            engine.reader.freelist.put(number, Arc::clone(&freelist));
        }
        Ok(Some(freelist))
    }
}
