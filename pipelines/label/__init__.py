"""Annotate, train and segment in MONAI Label: the app, its server and its page."""
