"""`make mutants`: one-line faults, each applied to a copy of the code; the named tests must catch every one.

A mutant that survives, or whose line is no longer there, fails the run with its name. So do tests that fail without any fault, since they
would seem to catch everything.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    """In `file`, `old` (which must occur exactly once) becomes `new`; `tests` must then fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant("sign of learnability", "scores.py", "_score(getattr(inputs, by)) - reference_weight", "-_score(getattr(inputs, by)) + reference_weight", "test_scores.py"),
    Mutant("reference counted as online", "scores.py", "reference_weight * _score(inputs.reference), policy", "reference_weight * _score(inputs.online), policy", "test_scores.py"),
    Mutant("easy reference reads the online model", "scores.py", "return -_score(inputs.reference)", "return -_score(inputs.online)", "test_scores.py"),
    Mutant("the learner for the online model", "scores.py", 'reference_weight: float = 1.0, by: str = "online"', 'reference_weight: float = 1.0, by: str = "learner"', "test_scores.py"),
    Mutant("residual not updated", "scores.py", "left = left - along * ", "left = left - 0.0 * along * ", "test_policies.py"),
    Mutant("norms for their logarithms", "scores.py", "_score(jnp.log(jnp.maximum(getattr(inputs, by), 1e-6)))", "_score(jnp.maximum(getattr(inputs, by), 1e-6))", "test_policies.py"),
    Mutant("missing stop_gradient", "scores.py", "jax.lax.stop_gradient(values.astype(jnp.float32))", "values.astype(jnp.float32)", "test_scores.py"),
    Mutant("scores in half precision", "scores.py", "jax.lax.stop_gradient(values.astype(jnp.float32))", "jax.lax.stop_gradient(values)", "test_scores.py"),
    Mutant("effective share not squared", "scores.py", "jnp.sum(p * p)", "jnp.sum(p)", "test_scores.py"),
    Mutant("normal noise for Gumbel noise", "select.py", "top_k(scores + jax.random.gumbel(", "top_k(scores + jax.random.normal(", "test_select.py"),
    Mutant("the lowest scores", "select.py", "_, indices = jax.lax.top_k(scores, b)", "_, indices = jax.lax.top_k(-scores, b)", "test_select.py"),
    Mutant("kappa off by one", "select.py", "perturbed[b]", "perturbed[b - 1]", "test_select.py"),
    Mutant("plain form of q", "select.py", "-jnp.expm1(-jnp.exp(gap))", "1.0 - jnp.exp(-jnp.exp(gap))", "test_select.py"),
    Mutant("weights of b / (B p)", "select.py", "b / (size * inclusion(log_p[indices] - perturbed[b]))", "b / (size * jnp.exp(log_p[indices]))", "test_select.py"),
    Mutant("stale key", "step.py", "jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)", "jax.random.fold_in(state.key, 0)", "test_step.py"),
    Mutant("temperature multiplies", "pairwise.py", "else values / temperature", "else values * temperature", "test_step.py"),
    Mutant("online model not trained", "step.py", "        state = replace(state, online=online)\n", "", "test_step.py"),
    Mutant("learner's optimizer for the online model", "step.py", "_descend(recipe.scorer, state.online,", "_descend(recipe.learner, state.online,", "test_step.py"),
    Mutant("weights ignored", "gradients.py", "jnp.mean(weights * model.learn_loss", "jnp.mean(1.0 * model.learn_loss", "test_step.py"),
    Mutant("weights not permuted with their rows", "step.py", ".set(selection.weights)[indices]", ".set(selection.weights)[selection.indices]", "test_step.py"),
    Mutant("augmented views are scored", "step.py", "    state, chosen = select_step(recipe, state, super_batch)\n    state, metrics", "    super_batch = recipe.augment(super_batch, state.key)\n    state, chosen = select_step(recipe, state, super_batch)\n    state, metrics", "test_step.py"),
    Mutant("residuals of the first rows", "reuse.py", "taken = take_sharded(jax.numpy.moveaxis(split, axis, 0), indices, mesh)", "taken = jax.numpy.moveaxis(split, axis, 0)[:count]", "test_reuse.py"),
    Mutant("the forward pass charged twice", "ledger.py", "(ratio - reuse) * b", "ratio * b", "test_policies.py"),
    Mutant("scorers train after the window", "step.py", "replace(recipe, policy=policies.uniform)", "recipe", "test_step.py"),
    Mutant("shared buffers", "recipe.py", "copy = lambda tree: jax.tree.map(jnp.array, tree)", "copy = lambda tree: tree", "test_step.py"),
    Mutant("replicated take", "sharding.py", "    if devices == 1:\n        return jax.tree.map(lambda leaf: leaf[indices], x)", "    if devices:\n        return jax.tree.map(lambda leaf: leaf[indices], x)", "test_sharding.py"),
    Mutant("one round too few", "sharding.py", "jnp.where(away, rank + 1, 0)", "jnp.where(away, rank, 0)", "test_sharding.py"),
    Mutant("rows stay where they are not at home", "sharding.py", "spare = rank >= room", "spare = rank > room", "test_sharding.py"),
    Mutant("moments of a shared learner are whole", "sharding.py", 'r"^learner/.*(kernel|embed)$"', 'r"^learner/params/.*(kernel|embed)$"', "test_fsdp.py"),
    Mutant("small models are shared", "sharding.py", 'r"^learner/.*(kernel', 'r"/.*(kernel', "test_fsdp.py"),
    Mutant("gradients of a shared learner stay whole", "sharding.py", "with_sharding_constraint(grad, split)", "with_sharding_constraint(grad, replicated(mesh))", "test_fsdp.py"),
    Mutant("the partitioner decides what is gathered", "models/layers.py", "return self.gather(self.value, self.path)", "return self.value", "test_fsdp.py"),
    Mutant("rows travel over one axis only", "sharding.py", "(() if mesh is None else mesh.axis_names)", "(() if mesh is None else mesh.axis_names[:1])", "test_fsdp.py"),
    Mutant("loops counted once", "collectives.py", "loops[body] = count * ", "loops[body] = min(count, 1) or ", "test_pod.py"),
    Mutant("every counter goes by ones", "collectives.py", "_constant(added[1], body) if added else 0", "1", "test_pod.py"),
    Mutant("ring of one way", "collectives.py", '(2 if self.kind == "all-reduce" else 1)', "1", "test_pod.py"),
    Mutant("reference scoring not charged", "ledger.py", 'costs["reference_score"] = ratio * b * scorer.forward', 'costs["reference_score"] = 0.0', "test_ledger.py"),
    Mutant("online training not charged", "ledger.py", 'costs["online_train"] = b * scorer.train', 'costs["online_train"] = 0.0', "test_ledger.py"),
    Mutant("reference training not charged", "train.py", 'self.ledger.charge({"reference_train": total(reference["flops"])})', "pass", "test_train.py"),
    Mutant("the window never closes", "train.py", "active = self.ledger.step < self.window", "active = bool(self.window)", "test_train.py"),
    Mutant("one key for two choices", "schedule.py", "step=state.step + ahead", "step=state.step", "test_schedule.py"),
    Mutant("the newest online model scores", "schedule.py", "state, pending = self._decide(state, 1)", "state, pending = self._decide(state, 0)", "test_schedule.py"),
    Mutant("the choice made before the stop is made again", "schedule.py", "pending if self.restored else None", "None", "test_schedule.py"),
    Mutant("the host waits for the device", "schedule.py", "        return state, Said(figures, chosen, batch.rows, batch.epochs)", "        return state, Said(jax.device_get(figures), chosen, batch.rows, batch.epochs)", "test_schedule.py"),
    Mutant("the pending super-batch counts as consumed", "schedule.py", "return self.loader.position if self._decided is None else self._decided.position", "return self.loader.position", "test_schedule.py"),
    Mutant("what was read ahead counts as consumed", "data/pipeline.py", "what = (self.position + n * count, count, small)", "what = (self.position + (n + 1) * count, count, small)", "data/test_pipeline.py"),
    Mutant("scorers pay for the full view", "build.py", '("scorer", scorer, scorer_task)', '("scorer", scorer, task)', "test_schedule.py"),
    Mutant("recomputation counted", "ledger.py", "for account in ACCOUNTS))", "for account in costs))", "test_train.py"),
    Mutant("a deciding gate takes no time", "train.py", "with self.watch.running() if", "with contextlib.nullcontext() if", "test_train.py"),
    Mutant("scores that are no numbers pass", "train.py", "(figures | scored).items()", "figures.items()", "test_train.py"),
    Mutant("a damaged checkpoint stays", "checkpoint.py", "self._manager.delete(damaged)", "pass", "test_checkpoint.py"),
    Mutant("data position not restored", "train.py", 'return meta["position"]', "return 0", "test_train.py"),
    Mutant("weights of recorded choices forgotten", "step.py", 'batch, batch.get("weight", ones))', "batch, ones)", "test_levels.py"),
    Mutant("scores of any model are read", "stored.py", '("model", model or about["model"])', '("model", about["model"])', "test_references.py"),
    Mutant("a run goes on with other scores", "train.py", "if before != now:", "if False:", "test_references.py"),
    Mutant("stored scores are charged", "ledger.py", '{"stored": 0, "crossfitted"', '{"stored": 1, "crossfitted"', "test_levels.py"),
    Mutant("a co-trained reference is trained for nothing", "ledger.py", 'costs["reference_train"] = ratio * b * scorer.train', 'costs["reference_train"] = b * scorer.train', "test_levels.py"),
    Mutant("the closed form forgets the window", "ledger.py", "return beta + window * ((r", "return beta + beta * ((r", "test_levels.py"),
    Mutant("stored losses of another sign", "observe.py", 'said[name] = super_batch["reference_loss"]', 'said[name] = -super_batch["reference_loss"]', "test_references.py"),
    Mutant("the co-trained reference sees the sub-batch", "step.py", "seen = recipe.augment(super_batch, before.key)", "seen = recipe.augment(super_batch | sub_batch, before.key)", "test_references.py"),
    Mutant("a reference scores what it was trained on", "references.py", "scored_by = 1 - splits.fold_of(ids)", "scored_by = splits.fold_of(ids)", "test_references.py"),
    Mutant("the second reference's scores are free", "ledger.py", '"crossfitted": 2', '"crossfitted": 1', "test_references.py"),
    Mutant("the hardest half is kept", "references.py", "np.argsort(losses, kind", "np.argsort(-losses, kind", "test_references.py"),
    Mutant("first layer's input gradient charged", "flops.py", "3 * self.forward - self.first", "3 * self.forward", "models/test_vit.py"),
    Mutant("attention counted once", "flops.py", "2 * 2.0 * queries * keys * width", "2.0 * queries * keys * width", "models/test_vit.py"),
    Mutant("smoothing forgotten", "losses.py", "-(1.0 - smoothing) * hit - smoothing", "-hit - 0 * smoothing", "test_losses.py"),
    Mutant("a damaged record shifts the ids", "data/shards.py", "counted |= np.int64(1) << np.int64(47)", "return counted", "data/test_records.py"),
    Mutant("an old index is trusted", "data/shards.py", "if stored[\"stamp\"].tobytes().decode() == stamp:", "if True:", "data/test_webdataset.py"),
    Mutant("the sources of a mixture share their ids", "data/mixture.py", "source.ids | np.int64(n << INDEX_BITS)", "source.ids | np.int64(n)", "data/test_mixture.py"),
    Mutant("a mixture starts anew in every block", "data/order.py", "order.positions(block * len(places), len(places))", "order.positions(0, len(places))", "data/test_mixture.py"),
    Mutant("prepare holds out by place", "data/splits.py", "hash64(0x401D, ids) <", "hash64(0x401D, np.arange(len(ids)) + len(ids)) <", "test_prepare.py"),
    Mutant("finished shards are forgotten", "prepare.py", "if shard[0] not in there", "if shard[0]", "test_prepare.py"),
    Mutant("augmentation by place", "data/augment.py", "keys = example_keys(jax.random.fold_in(key, 2), ids, epoch)", "keys = jax.random.split(key, len(ids))", "data/test_augment.py"),
    Mutant("partners by place", "data/augment.py", "jnp.zeros_like(order).at[order].set(jnp.roll(order, -1))", "jnp.roll(jnp.arange(len(order)), -1)", "data/test_augment.py"),
    Mutant("joint selection forgets the columns", "select.py", "logits = logits + jnp.sum(scores.block(None, part), axis=1) + jnp.sum(", "logits = logits + jnp.sum(scores.block(None, part), axis=1) + 0 * jnp.sum(", "test_joint.py"),
    Mutant("joint selection draws twice", "select.py", "return logits.at[new].set(-jnp.inf)", "return logits", "test_joint.py"),
    Mutant("the reference is a copy of the online model", "pairwise.py", "PairScores(getattr(inputs, by), inputs.reference))", "PairScores(getattr(inputs, by), getattr(inputs, by)))", "test_joint.py"),
    Mutant("pairs of other texts as own", "pairwise.py", "contrastive.dot(said.image, said.text) - said.bias[0]", "contrastive.dot(said.image, said.text) + said.bias[0]", "test_joint.py"),
    Mutant("one pass for losses of pairs", "gradients.py", "if not model.pairwise:", "if True:", "test_gradients.py"),
    Mutant("captions by place", "data/captions.py", "hash64(0xCA97, ids, epochs)", "hash64(0xCA97, np.arange(len(ids)), epochs)", "test_pairs.py"),
    Mutant("ties at the top", "evaluators/retrieval.py", "((scores == own).sum(axis=1) - 1) / 2", "0 * ((scores == own).sum(axis=1) - 1) / 2", "evaluators/test_retrieval.py"),
    Mutant("heads of published weights mixed", "weights/forms.py", "*arrays[0].shape[:-1], tower.heads, -1)", "*arrays[0].shape[:-1], -1, tower.heads)", "test_big_vision.py"),
]  # fmt: skip


def faulty(mutant: Mutant) -> str:
    """The file with the fault. ValueError when its line is not there exactly once."""
    text = (ROOT / "active_learning" / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name}: its line occurs {text.count(mutant.old)} times in {mutant.file}"
        )
    return text.replace(mutant.old, mutant.new)


def caught(mutant: Mutant) -> bool:
    """Whether the tests fail on a copy of the project with the fault applied. ValueError when they do not run."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for part in ("active_learning", "tests", "configs", "docs"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / "active_learning" / mutant.file).write_text(faulty(mutant))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-p",
            "no:cacheprovider",
            f"tests/{mutant.tests}",
        ]
        cached = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax")}
        environment = cached | os.environ | {"PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise ValueError(f"{mutant.name}: the tests did not run\n{done.stdout[-2000:]}")
        return done.returncode == 1


def main() -> None:
    wanted = sys.argv[1:]
    chosen = [m for m in MUTANTS if not wanted or any(word in m.name for word in wanted)]
    survivors = []
    for mutant in chosen:
        faulty(mutant)  # all can be applied, before any is tried
    tests = sorted({f"tests/{mutant.tests}" for mutant in chosen})
    if subprocess.run(
        [sys.executable, "-m", "pytest", "-n", str(os.cpu_count()), *tests], cwd=ROOT
    ).returncode:
        sys.exit("the tests fail without a fault: nothing could be said of any")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (mutant, ok) in enumerate(
            zip(chosen, pool.map(caught, chosen), strict=True), 1
        ):
            print(
                f"[{number}/{len(chosen)}] {'caught  ' if ok else 'SURVIVED'} {mutant.name}",
                flush=True,
            )
            survivors += [] if ok else [mutant.name]
    if survivors:
        sys.exit(
            f"{len(survivors)} of {len(chosen)} faults were not caught: {', '.join(survivors)}"
        )
    print(f"all {len(chosen)} faults caught")


if __name__ == "__main__":
    main()
