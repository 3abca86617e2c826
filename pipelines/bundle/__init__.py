"""A bundle's settings and files: configuration, checkpoints, what MONAI's messages mean."""
