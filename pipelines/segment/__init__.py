"""Images larger than memory: `overtile segment`, task by task, resumable."""
