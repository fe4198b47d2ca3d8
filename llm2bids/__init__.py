"""Scan a language model like a brain."""
