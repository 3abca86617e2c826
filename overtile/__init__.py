"""Overtile: the U-Net method of Ronneberger, Fischer and Brox (2015) as a MONAI pipeline."""

from pkgutil import extend_path

__version__ = "0.1.0"
# Python that starts in the repository finds this folder before what is installed
__path__ = extend_path(__path__, __name__)
