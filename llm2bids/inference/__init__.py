"""Inference: first level, second level and permutation, with nilearn's statistics.

``design`` makes the model; ``runs`` bring the data in, a few volumes at a time; ``first_level`` and
``second_level`` are functions on arrays, units in recording order; ``group`` asks the questions;
``statmap`` names and writes the results; ``analyze`` holds the verbs.
"""
