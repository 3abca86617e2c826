"""A trained network at work: ready to use, on folders of images, scored, and unsure."""
