"""SQLite that several processes write to at once: a write-ahead log, and transactions that take the lock first."""
