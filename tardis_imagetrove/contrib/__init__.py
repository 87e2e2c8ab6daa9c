"""What belongs to few sites."""
