"""Objects in buckets: addresses, retries, and run folders that live there."""
