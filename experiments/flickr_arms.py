"""The arms of `experiments.flickr`: both settings, each claim beside its controls.

Setting (a) has a clean held-out third for the reference; in setting (b) the reference part is as
noisy as the pool. A "+" marks arms that train on the reference part as well.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from active_learning.config import freeze
from active_learning.core import policies
from active_learning.models import MLP, Text, TwoTower, ViT
from active_learning.references import CrossFitted, Stored, Trained
from active_learning.settings import Config, Distill, Evaluate, Flexi, Log, Select
from active_learning.store_scores import store
from configs import flickr8k
from experiments.arms import Arm, locked, trained

# Folder of stored embeddings beside the references, before the seed.
STORED = "sigmoid-clean-embeddings"
NOISY = {"pool": 0.5, "reference": 0.5, "gate": 0.5, "tune": 0.5}


@dataclass(frozen=True)
class Scale:
    """How much of everything; `short`: budgets at which selection is expected to reach uniform's
    full one; `equal_flops`: learnability's longer budgets with the control's at which it costs as
    much in all; `dear`: uniform's and the control's at which they cost what the arms of (b) do.
    """

    steps: int
    reference_steps: int
    short: tuple[float, ...]
    equal_flops: tuple[tuple[float, float], ...]
    dear: tuple[float, float]
    seeds: tuple[int, ...]
    headline_seeds: tuple[int, ...]


SCALES = {
    "smoke": Scale(4, 4, (0.5,), ((1.0, 2.0),), (1.5, 2.0), (100,), (100,)),
    "desk": Scale(
        600,
        600,
        (0.2, 0.4),
        ((1.0, 1.93), (2.0, 3.63)),
        (1.51, 2.02),
        (110, 111),
        (110, 111, 112, 113, 114),
    ),
}


def base(scale: Scale, arm: str, noisy: bool) -> Config:
    """An arm of the config at this scale, in setting (a) or (b)."""
    config = freeze(flickr8k.get_config(arm))
    small = (
        {"parts": {"pool": 560, "reference": 160, "gate": 20, "tune": 20}}
        if scale.steps < 50
        else {}
    )
    if small:
        tiny = TwoTower(
            MLP(width=16, depth=1), Text(vocab=2048, context=16, width=16, depth=0, heads=1), 16, 16
        )
        reference = replace(config.reference, batch_size=32)
        config = replace(config, batch_size=32, learner=tiny, scorer=tiny, reference=reference)
    task = replace(config.task, loss="sigmoid" if arm.startswith("joint") else "softmax")
    return replace(
        config,
        total=f"{scale.steps} steps",
        task=replace(task, shuffled_captions=NOISY) if noisy else task,
        split=replace(config.split, **small),
        reference=replace(
            config.reference,
            path=f"{task.loss}-{'noisy' if noisy else 'clean'}",
            total=f"{scale.reference_steps} steps",
        ),
        evaluate=replace(
            config.evaluate,
            every="50 %" if scale.steps < 50 else "25 %",
            sets=("test", "val"),
            subset=500,
        ),
        log=Log(every="5 %", snapshots=8),
    )


def uniform_of(config: Config, **split) -> Config:
    """Plain training on other parts; nothing else differs."""
    return replace(
        config,
        select=Select(),
        reference=Trained(),
        split=replace(config.split, **split),
        evaluate=replace(config.evaluate, gate=""),
    )


def arm(
    config: Config, name: str, seeds: tuple[int, ...], scale: Scale, budget: float = 1.0
) -> Arm:
    return Arm(
        replace(config, name=name, total=f"{round(budget * scale.steps)} steps"), budget, seeds
    )


def with_select(config: Config, **select) -> Config:
    return replace(config, select=replace(config.select, **select))


def sharper(config: Config) -> Config:
    """With a score scale of 30 in all, for the reference alone in (a+), (b) and (b+); "(a) easy
    reference" has 10, as the config.
    """
    return with_select(config, temperature=1 / 3)


def final_arms(scale: Scale) -> list[Arm]:
    """Every arm of both settings, each control beside its claim."""
    s, many = scale, scale.headline_seeds
    clean = {name: base(s, name, False) for name in ("learnability", "easy", "loss", "joint")}
    noisy = {name: base(s, name, True) for name in ("learnability", "easy", "loss", "joint")}
    soft, sigmoid = clean["learnability"], clean["joint"]
    third = uniform_of(soft, train_on=("reference",))
    easy_joint = with_select(noisy["joint"], policy=policies.joint_easy)

    def on_both(config: Config) -> Config:
        return replace(config, split=replace(config.split, train_on=("pool", "reference")))

    all_noisy = on_both(uniform_of(noisy["learnability"]))
    longer, controls = zip(*s.equal_flops, strict=True)
    folds = noisy["easy"].reference.as_kind(CrossFitted, path="softmax-noisy-folds")
    crossfitted = replace(on_both(sharper(noisy["easy"])), reference=folds)
    arms = [
        *(
            arm(replace(uniform_of(soft), baseline=True), "uniform", many, s, b)
            for b in (1.0, s.dear[0])
        ),
        *(arm(soft, "(a) learnability", many, s, b) for b in (*s.short, 1.0)),
        *(
            arm(third, "(a) control: uniform on the clean third", many, s, b)
            for b in (1.0, *controls)
        ),
        *(
            arm(on_both(soft), "(a+) learnability on pool + clean third", many, s, b)
            for b in (*s.short, *longer)
        ),
        arm(on_both(uniform_of(soft)), "(a+) control: uniform on pool + clean third", many, s),
        arm(
            on_both(sharper(clean["easy"])), "(a+) easy reference on pool + clean third", s.seeds, s
        ),
        arm(clean["easy"], "(a) easy reference", s.seeds, s),
        arm(clean["loss"], "(a) loss-based", s.seeds, s),
        arm(noisy["learnability"], "(b) learnability", s.seeds, s),
        arm(sharper(noisy["easy"]), "(b) easy reference", many, s),
        arm(noisy["loss"], "(b) loss-based", s.seeds, s),
        arm(crossfitted, "(b+) easy reference, cross-fitted on pool + reference part", many, s),
        *(
            arm(all_noisy, "(b) control: uniform on pool + reference part", many, s, b)
            for b in (1.0, s.dear[1])
        ),
        arm(uniform_of(sigmoid), "uniform, sigmoid", s.seeds, s),
        arm(sigmoid, "(a) joint", s.seeds, s),
        arm(
            uniform_of(sigmoid, train_on=("reference",)),
            "(a) control, sigmoid: uniform on the clean third",
            s.seeds,
            s,
        ),
        arm(on_both(sigmoid), "(a+) joint on pool + clean third", s.seeds, s),
        arm(noisy["joint"], "(b) joint", s.seeds, s),
        arm(easy_joint, "(b) joint easy", s.seeds, s),
    ]
    few = ("uniform", "(a) learnability", "(b) joint")
    return [one for one in arms if one.config.name in few] if s.steps < 50 else arms


def method_arms(scale: Scale) -> list[Arm]:
    """Setting (a) by newer objectives and by cheaper forms of joint selection.

    In the joint forms the learner scores itself, so that no online model is trained. Those with
    stored embeddings read what `store_embeddings` wrote.
    """
    s = scale
    soft, sigmoid = base(s, "learnability", False), base(s, "joint", False)
    stored = Stored(path=STORED)
    self_scoring = with_select(sigmoid, policy=policies.joint_learner)
    reuse = with_select(sigmoid, policy=policies.joint_learner_fused)
    balanced = with_select(soft, policy=policies.concept_balanced_learnability)
    no_gate = replace(sigmoid.evaluate, gate="")  # stored embeddings of pairs are no model
    flexi = replace(self_scoring, flexi=Flexi(patch=24), evaluate=no_gate, reference=stored)
    configs = {
        "(a) joint, stored reference": replace(sigmoid, reference=stored, evaluate=no_gate),
        "(a) joint by the learner, Flexi, stored reference": flexi,
        "(a) joint by the learner, two passes": self_scoring,
        "(a) joint by the learner, reuse": reuse,
        "(a) joint by the learner, reuse, stored reference": replace(
            reuse, reference=stored, evaluate=no_gate
        ),
        "(a) joint, distilled": replace(sigmoid, distill=Distill(weight=0.5)),
        "(a) learnability, distilled": replace(soft, distill=Distill(weight=0.5)),
        "(a) concept-balanced learnability": balanced,
        "uniform": replace(uniform_of(soft), baseline=True),
        "uniform, sigmoid": uniform_of(sigmoid),
        "(a) control, sigmoid: uniform on the clean third": uniform_of(
            sigmoid, train_on=("reference",)
        ),
    }
    if s.steps < 50:  # One form, on towers that have patches.
        patches = ViT(width=16, depth=1, heads=1, patch=16)
        tower = replace(sigmoid.learner, image=patches)
        name = "(a) joint by the learner, Flexi, stored reference"
        configs = {name: replace(configs[name], learner=tower)}
    seeds, shorter = s.headline_seeds[:3], list(configs)[1:2] + list(configs)[6:7]
    budgets = [(name, 1.0) for name in configs] + [(n, b) for n in shorter for b in s.short]
    arms = [arm(configs[name], name, seeds, s, budget) for name, budget in budgets]
    return arms if s.steps < 50 else arms + _plain_arms(configs, s, seeds)


def _plain_arms(configs: dict[str, Config], s: Scale, seeds: tuple[int, ...]) -> list[Arm]:
    """Uniform training and the controls, of either loss, at what the other arms cost."""
    third = "(a) control: uniform on the clean third"
    on_third = replace(configs["uniform"], baseline=False)
    on_third = replace(on_third, split=replace(on_third.split, train_on=("reference",)))
    plain = configs | {third: on_third}
    cheap, dear = (1 / 3, 2 / 3, 1.6, 2.7), (0.6, 1.0, 2.0)
    budgets = [("uniform, sigmoid", b) for b in cheap]
    budgets += [("(a) control, sigmoid: uniform on the clean third", b) for b in cheap]
    budgets += [(third, b) for b in dear] + [("uniform", b) for b in dear if b != 1.0]
    return [arm(plain[name], name, seeds, s, budget) for name, budget in budgets]


def store_embeddings(scale: Scale, out: Path) -> None:
    """Trains the reference of setting (a) for each seed and stores its embeddings of all pairs.

    Args:
      scale: How much of everything.
      out: Folder of the runs, as `run_all` is given.
    """
    live = arm(base(scale, "joint", False), "reference", scale.headline_seeds[:3], scale)
    for config, _ in live.runs(out):
        reference = Path(config.reference.path)
        folder = out / "references" / f"{STORED}-seed{config.seed}"
        with locked(reference, wait=True):
            trained(config.reference.own_runs(config)[""], reference)
            store(reference, config, out=folder)


def tune_arms(scale: Scale) -> list[Arm]:
    """Learnability at other ratios and score scales beside uniform, on `tune`, seed 0. The final
    arms' scale, ratio and window do not come from here: they were set beforehand, the score scale
    of the reference alone by single runs of another seed.
    """
    arms = []
    for noisy in (False, True):
        kind = "(b)" if noisy else "(a)"
        config = base(scale, "learnability", noisy)
        config = replace(
            config, evaluate=Evaluate(sets=("tune",), every="20 %", gate="gate", batch_size=250)
        )
        arms.append(arm(uniform_of(config), f"{kind} uniform", (0,), scale))
        for ratio, scaled in ((5, 10.0), (2, 30.0), (5, 30.0)):
            task = replace(config.task, score_scale=scaled)
            chosen = with_select(replace(config, task=task), ratio=ratio)
            arms.append(arm(chosen, f"{kind} ratio {ratio}, scale {scaled:g}", (0,), scale))
    return arms
