"""Programs and processes with limits, and folders that do not outlive their work. No Django."""
