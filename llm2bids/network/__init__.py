"""Sets of units with their statistics in model coordinates."""
