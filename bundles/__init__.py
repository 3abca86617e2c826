"""Bundles: configuration and weights, no code."""
