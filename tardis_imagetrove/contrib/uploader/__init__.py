"""The original ImageTrove's ``imagetrove_uploader.conf``."""
