//! The words that connections and processes share, and the lock file beside the log.
