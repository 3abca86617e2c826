"""What a file holds: each format opens, reads windows of and writes its files."""
