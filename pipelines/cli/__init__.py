"""The command `overtile`, a file a group of commands."""
