"""Names of the FLOP accounts and of the amortization levels.

Imports nothing, so that the ledger, the planner and the report share one definition.
"""

# Every FLOP of a run is charged to one of these; together they are the run's total FLOPs.
ACCOUNTS = ("learner_train", "online_score", "online_train", "reference_score", "reference_train")
# Second forward passes of rematerialization: reported beside the accounts, part of no total.
RECOMPUTE = "recompute"
ACCOUNT_LABELS = {
    "learner_train": "learner train",
    "online_score": "online score",
    "online_train": "online train",
    "reference_score": "reference score",
    "reference_train": "reference train",
}
# Which accounts a run pays for when everything further right has been paid for already, e.g. the
# reference's scores are stored beside the data ("foundation dataset").
AMORTIZATION_LEVELS = {
    "none": ACCOUNTS,
    "pretrained": ACCOUNTS[:4],
    "foundation dataset": ACCOUNTS[:3],
    "replayed policy": ACCOUNTS[:1],
}
