"""What arrives, as types: one reader for each format. No Django."""
