"""Who somebody is, and what they may see."""

from .authservice import AuthService

auth_service = AuthService()
