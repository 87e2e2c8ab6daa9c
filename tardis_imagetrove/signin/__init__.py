"""Signing in through a federation: an assertion is checked, its identity linked to an account, and a session begun."""
