"""Reads what instruments write: one package for each format, one set of types for all of them."""
