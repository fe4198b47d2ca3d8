"""Files that are whole or not there: staging, checksums, the lock, tables and JSON."""
