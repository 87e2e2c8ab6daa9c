"""Filters found, run, run again, and run without MyTARDIS."""
