"""Overtile: the U-Net method of Ronneberger, Fischer and Brox (2015) as a MONAI pipeline."""

__version__ = "0.1.0"
