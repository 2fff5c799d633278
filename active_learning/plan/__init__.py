"""Plans of runs: what they cost and whether they fit, before they are started."""
