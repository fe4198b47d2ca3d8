"""Inference: first level, second level and permutation, with nilearn's statistics.

``trials``, ``design`` and ``contrast`` make the model; ``series`` brings the data in, a few volumes
at a time; ``first_level``, ``second_level`` and ``pooled`` are functions on arrays, units in
recording order; ``statmap`` names and writes the results; ``analyze`` holds the verbs.
"""
