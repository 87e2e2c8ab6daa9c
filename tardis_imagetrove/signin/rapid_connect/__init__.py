"""The provider for AAF Rapid Connect: the federation posts a signed assertion."""
