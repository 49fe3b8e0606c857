"""What learns, for how long and from which terms."""
