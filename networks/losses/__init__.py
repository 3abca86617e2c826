"""What a training minimises, one loss a file."""
