"""The routes of the server: those that viewers know from MONAI Label, and the page's."""
