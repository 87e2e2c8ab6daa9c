"""The providers of OpenID Connect: discovery, a sign-in by authorization code with PKCE, and the ID token's check."""
