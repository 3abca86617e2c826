"""What a folder holds: find and check images and labels, remember, cache, make and write them."""
