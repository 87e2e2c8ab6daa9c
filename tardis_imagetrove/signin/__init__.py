"""Signing in through federations: a provider says who comes, the identity is linked to an account, a session begins."""
