"""Recordings as a BIDS dataset on disk, and back."""
