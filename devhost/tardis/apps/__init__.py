"""Apps that come with MyTARDIS."""
