"""BIDS datasets: what each scan is called, what goes beside it, and what is left out and why. No Django, no MyTARDIS."""
