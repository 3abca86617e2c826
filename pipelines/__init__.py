"""Data layouts, engines, metrics, MLflow tracking, figures, segmentation, command line.

Modules are imported by their full names; this file stays empty so that the command line
answers before PyTorch is loaded.
"""
