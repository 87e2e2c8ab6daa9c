"""A stand-in for the federation, so that a whole sign-in can be shown without one. Off unless DEVHOST_FEDERATION is set."""
