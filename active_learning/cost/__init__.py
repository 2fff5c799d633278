"""FLOPs of models and the ledger of a run; imports nothing but the standard library."""
