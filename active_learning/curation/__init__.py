"""Find mislabeled, duplicated, leaked and unreadable examples of a dataset, and show them."""
