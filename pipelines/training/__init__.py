"""A training from start to table: handlers, stop and resume, pictures, tracking."""
