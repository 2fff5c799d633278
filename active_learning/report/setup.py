"""The few settings of a run that the report depends on, read from its `config.json`.

This is the only module of the report that knows configuration keys. Keys may be left out of a
`config.json` where they have their default value, so the defaults are repeated here; a test
compares keys, defaults, kinds and the table of policies with the training code.
"""

from dataclasses import dataclass

from active_learning.report.files import RunError, get_object, get_text

# Models that score the super-batch, by the registered name of the policy.
POLICY_SCORERS: dict[str, tuple[str, ...]] = {
    "uniform": (),
    "learnability": ("online", "reference"),
    "cautious_learnability": ("online", "reference"),
    "class_centred_learnability": ("online", "reference"),
    "concept_balanced_learnability": ("online", "reference"),
    "hard": ("online",),
    "easy_reference": ("reference",),
    "hard_learner": ("learner",),
    "small_loss": ("learner",),
    "infobatch": (),
    "hard_learner_fused": ("learner",),
    "rho": ("learner", "reference"),
    "gradient_norm": ("learner",),
    "margin": ("online",),
    "entropy": ("online",),
    "divbs": ("learner",),
    "pair_learnability": ("online", "reference"),
    "s_cliploss": ("reference",),
    "joint": ("online", "reference"),
    "joint_learner": ("learner", "reference"),
    "joint_learner_fused": ("learner", "reference"),
    "joint_easy": ("reference",),
    "offline_filter": (),
}
# Policies that also read the reference once, before the first update, to filter the pool.
FILTERS = frozenset({"offline_filter"})
SELECT_DEFAULTS = {"policy": "uniform", "schedule": "exact", "replay": ""}
REFERENCE_DEFAULTS = {"kind": "trained", "path": ""}
# Where the reference of a run comes from.
REFERENCE_KINDS = (
    "trained",
    "loaded",
    "stored",
    "embedded",
    "zero_shot",
    "kernel",
    "cotrained",
    "crossfitted",
    "online",
)


@dataclass(frozen=True)
class Setup:
    """How a run selected. None: the run has a policy or reference of its own that is not known."""

    scorers: frozenset[str] | None = frozenset()
    # Whether the pool is filtered once by the reference's loss.
    filters: bool = False
    schedule: str = SELECT_DEFAULTS["schedule"]
    # Run folder whose recorded selections are trained on; "" if the run selected by itself.
    replay: str = SELECT_DEFAULTS["replay"]
    reference_kind: str | None = REFERENCE_DEFAULTS["kind"]
    reference_path: str = REFERENCE_DEFAULTS["path"]

    @property
    def reads_reference(self) -> bool | None:
        """Whether a reference is needed at any time; None if the policy is not known."""
        return self.filters or (None if self.scorers is None else "reference" in self.scorers)

    @property
    def reads_file(self) -> bool:
        """Whether the reference is a file of weights or scores, not a run of ours."""
        return self.reference_path.endswith(".npz")


def read_setup(config: dict, where: str) -> Setup:
    """Read the `config` object of a `config.json`.

    Args:
      config: The object; sections and keys at their default may be absent.
      where: The file, for error messages.

    Raises:
      RunError: A section or key has a value of the wrong type.
    """
    select = get_object({"select": {}} | config, "select", where)
    reference = config.get("reference") or {}
    if not isinstance(reference, dict):
        raise RunError(f"{where}: 'reference' is not an object")
    scorers, filters = _policy(select.get("policy", SELECT_DEFAULTS["policy"]), where)
    kind = get_text(reference, "kind", where, REFERENCE_DEFAULTS["kind"])
    return Setup(
        scorers=scorers,
        filters=filters,
        schedule=get_text(select, "schedule", where, SELECT_DEFAULTS["schedule"]),
        replay=get_text(select, "replay", where, SELECT_DEFAULTS["replay"]),
        reference_kind=kind if kind in REFERENCE_KINDS else None,
        reference_path=get_text(reference, "path", where, REFERENCE_DEFAULTS["path"]),
    )


def _policy(policy: object, where: str) -> tuple[frozenset[str] | None, bool]:
    """Scorers and whether the pool is filtered, of a registered name or of a policy's fields."""
    if isinstance(policy, str):
        policy = {"kind": policy}
    if not isinstance(policy, dict):
        raise RunError(f"{where}: 'select.policy' is neither a name nor an object")
    name = next((policy[k] for k in ("name", "kind") if isinstance(policy.get(k), str)), "")
    name = name.replace(" ", "_")
    scorers = policy.get("needs", POLICY_SCORERS.get(name))
    if scorers is not None and not (
        isinstance(scorers, list | tuple) and all(isinstance(s, str) for s in scorers)
    ):
        raise RunError(f"{where}: 'select.policy.needs' is not a list of names")
    fraction = policy.get("pool_fraction", 0.5 if name in FILTERS else 1.0)
    return None if scorers is None else frozenset(scorers), fraction != 1
