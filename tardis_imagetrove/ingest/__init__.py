"""Ingest: from complete series in the spool to archived series in MyTARDIS."""
