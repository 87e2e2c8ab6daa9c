"""Conversion filters: what is made of an archived series."""
