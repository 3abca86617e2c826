"""Microscope-like images with labels, from a seed: cells, membranes, and data sets of them."""
