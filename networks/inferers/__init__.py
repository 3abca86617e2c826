"""How a network is run on images of any size: tiles, averaging, precision, cost."""
