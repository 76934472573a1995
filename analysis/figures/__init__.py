"""Figures of a study, each for paper and for the screen."""
