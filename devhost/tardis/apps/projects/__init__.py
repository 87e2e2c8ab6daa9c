"""Projects of MyTARDIS 5.0: experiments under one name."""
