"""Inference: first level, second level and permutation, with nilearn's statistics.

``trials``, ``design`` and ``contrast`` make the model; ``stream`` and ``blocks`` bring the data in
without holding a run in memory; ``first_level``, ``second_level`` and ``pooled`` are functions on
arrays and images; ``statmap`` names and writes the results; ``analyze`` holds the verbs.
"""
