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
    """In `file`, `old` (there exactly once) becomes `new`; `tests` must then fail.

    `file` is relative to active_learning/, `tests` to tests/.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant("sign of learnability", "core/scores.py", "_score(getattr(inputs, model)) - reference_weight * reference", "-_score(getattr(inputs, model)) + reference_weight * reference", "core/test_scores.py"),
    Mutant("reference counted as online", "core/scores.py", "reference = _score(inputs.reference)\n    return", "reference = _score(inputs.online)\n    return", "core/test_scores.py"),
    Mutant("easy reference reads the online model", "core/scores.py", "return -_score(inputs.reference)", "return -_score(inputs.online)", "core/test_scores.py"),
    Mutant("the learner for the online model", "core/scores.py", 'reference_weight: float = 1.0,\n    model: str = "online"', 'reference_weight: float = 1.0,\n    model: str = "learner"', "core/test_scores.py"),
    Mutant("residual not updated", "core/scores.py", "left = left - along * ", "left = left - 0.0 * along * ", "core/test_policies.py"),
    Mutant("norms for their logarithms", "core/scores.py", "_score(jnp.log(jnp.maximum(getattr(inputs, model), 1e-6)))", "_score(jnp.maximum(getattr(inputs, model), 1e-6))", "core/test_policies.py"),
    Mutant("missing stop_gradient", "core/scores.py", "jax.lax.stop_gradient(values.astype(jnp.float32))", "values.astype(jnp.float32)", "core/test_scores.py"),
    Mutant("scores in half precision", "core/scores.py", "jax.lax.stop_gradient(values.astype(jnp.float32))", "jax.lax.stop_gradient(values)", "core/test_scores.py"),
    Mutant("effective share not squared", "core/scores.py", "jnp.sum(p * p)", "jnp.sum(p)", "core/test_scores.py"),
    Mutant("normal noise for Gumbel noise", "core/select.py", "top_k(scores + jax.random.gumbel(", "top_k(scores + jax.random.normal(", "core/test_select.py"),
    Mutant("the lowest scores", "core/select.py", "_, indices = jax.lax.top_k(scores, b)", "_, indices = jax.lax.top_k(-scores, b)", "core/test_select.py"),
    Mutant("kappa off by one", "core/select.py", "perturbed[b]", "perturbed[b - 1]", "core/test_select.py"),
    Mutant("plain form of q", "core/select.py", "-jnp.expm1(-jnp.exp(gap))", "1.0 - jnp.exp(-jnp.exp(gap))", "core/test_select.py"),
    Mutant("weights of b / (B p)", "core/select.py", "b / (size * inclusion(log_p[indices] - perturbed[b]))", "b / (size * jnp.exp(log_p[indices]))", "core/test_select.py"),
    Mutant("stale key", "core/step.py", "jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)", "jax.random.fold_in(state.key, 0)", "core/test_step.py"),
    Mutant("temperature multiplies", "core/pair_scores.py", "return values / temperature", "return values * temperature", "core/test_step.py"),
    Mutant("online model not trained", "core/step.py", "        state = replace(state, online=online)\n", "", "core/test_step.py"),
    Mutant("learner's optimizer for the online model", "core/step.py", "recipe.model(\"online\"), state.online, sub_batch", "recipe.learner, state.online, sub_batch", "core/test_step.py"),
    Mutant("weights ignored", "core/gradients.py", "jnp.mean(weights * model.learn_loss", "jnp.mean(1.0 * model.learn_loss", "core/test_step.py"),
    Mutant("weights not permuted with their rows", "core/step.py", ".set(selection.weights)[indices]", ".set(selection.weights)[selection.indices]", "core/test_step.py"),
    Mutant("augmented views are scored", "core/step.py", "    state, chosen = select_step(recipe, state, super_batch)\n    state, metrics", "    super_batch = recipe.augment(super_batch, state.key)\n    state, chosen = select_step(recipe, state, super_batch)\n    state, metrics", "core/test_step.py"),
    Mutant("residuals of the first rows", "core/reuse.py", "taken = take_sharded(jnp.moveaxis(split, axis, 0), indices, mesh)", "taken = jnp.moveaxis(split, axis, 0)[: indices.shape[0]]", "core/test_reuse.py"),
    Mutant("the forward pass charged twice", "cost/ledger.py", "(ratio - reuse) * b", "ratio * b", "core/test_policies.py"),
    Mutant("scorers train after the window", "core/step.py", "replace(recipe, policy=policy, distill=False)", "replace(recipe, distill=False)", "core/test_step.py"),
    Mutant("shared buffers", "core/recipe.py", "ModelState(jax.tree.map(jnp.array, params), opt_state)", "ModelState(params, opt_state)", "core/test_step.py"),
    Mutant("replicated take", "core/sharding.py", "    if devices == 1:\n        return jax.tree.map(lambda leaf: leaf[indices], x)", "    if devices:\n        return jax.tree.map(lambda leaf: leaf[indices], x)", "core/test_sharding.py"),
    Mutant("one round too few", "core/sharding.py", "jnp.where(moves, rank + 1, 0)", "jnp.where(moves, rank, 0)", "core/test_sharding.py"),
    Mutant("rows stay where they are not at home", "core/homes.py", "spare, crosses = rank >= stay[owner]", "spare, crosses = rank > stay[owner]", "core/test_sharding.py"),
    Mutant("moments of a shared learner are whole", "core/sharding.py", 'r"^(learner|ema)/.*(kernel|embed)$"', 'r"^(learner|ema)/params/.*(kernel|embed)$"', "test_fsdp.py"),
    Mutant("small models are shared", "core/sharding.py", 'r"^(learner|ema)/.*(kernel', 'r"/.*(kernel', "test_fsdp.py"),
    Mutant("gradients of a shared learner stay whole", "core/sharding.py", "with_sharding_constraint(grad, split)", "with_sharding_constraint(grad, replicated(mesh))", "test_fsdp.py"),
    Mutant("the partitioner decides what is gathered", "models/layers.py", "return self.gather(self.value, self.path)", "return self.value", "test_fsdp.py"),
    Mutant("rows travel over one axis only", "core/sharding.py", "if isinstance(axis, str) else axis) or mesh.axis_names", "if isinstance(axis, str) else axis) or mesh.axis_names[:1]", "test_fsdp.py"),
    Mutant("loops counted once", "plan/hlo.py", "loops[body] = count * ", "loops[body] = min(count, 1) or ", "plan/test_pod.py"),
    Mutant("every counter goes by ones", "plan/hlo.py", "_constant(added[1], body) if added else 0", "1", "plan/test_pod.py"),
    Mutant("ring of one way", "plan/hlo.py", '(2 if self.kind == "all-reduce" else 1)', "1", "plan/test_pod.py"),
    Mutant("reference scoring not charged", "cost/ledger.py", "(references * ratio + distill) * b * each.forward", "0.0 * b * each.forward", "cost/test_ledger.py"),
    Mutant("online training not charged", "cost/ledger.py", 'costs["online_train"] = b * scorer.train', 'costs["online_train"] = 0.0', "cost/test_ledger.py"),
    Mutant("reference training not charged", "train/run_folder.py", 'ledger.charge({"reference_train": total(reference.flops)})', "pass", "train/test_loop.py"),
    Mutant("the window never closes", "train/loop.py", "active = self.ledger.step < self.gate.window", "active = bool(self.gate.window)", "train/test_loop.py"),
    Mutant("one key for two choices", "train/selectors.py", "step=state.step + ahead", "step=state.step", "train/test_updates.py"),
    Mutant("the newest online model scores", "train/updates.py", "state, pending = self._prepare(state, 1)", "state, pending = self._prepare(state, 0)", "train/test_updates.py"),
    Mutant("the choice made before the stop is made again", "train/updates.py", "pending if self.restored else None", "None", "train/test_updates.py"),
    Mutant("the host waits for the device", "train/updates.py", "        output = UpdateOutput(metrics, chosen, batch.rows, batch.epochs)\n        return replace(state, pending=pending), output", "        output = UpdateOutput(jax.device_get(metrics), chosen, batch.rows, batch.epochs)\n        return replace(state, pending=pending), output", "train/test_updates.py"),
    Mutant("the pending super-batch counts as consumed", "train/updates.py", "return self.loader.position if self._prepared is None else self._prepared.position", "return self.loader.position", "train/test_updates.py"),
    Mutant("what was read ahead counts as consumed", "data/loader.py", "what = (self.position + n * count, count, small, where)", "what = (self.position + (n + 1) * count, count, small, where)", "data/test_loader.py"),
    Mutant("copies of the actors are never made anew", "train/selectors.py", "fresh = (update - ahead) % self.refresh == 0 or not self._models", "fresh = not self._models", "train/test_actors.py"),
    Mutant("copies of the actors are forgotten at a stop", "train/selectors.py", "self._models = dict(pending.models)", "self._models = {}", "train/test_actors.py"),
    Mutant("a learner of two resolutions scores at the full one", "core/recipe.py", "(self.score_apply or self.apply)", "(self.apply)", "core/test_resolution.py"),
    Mutant("resolutions are dealt by place on the devices", "core/step.py", "values.shape[0], devices, period)", "values.shape[0], devices)", "core/test_resolution.py"),
    Mutant("a stored caption is always the first", "data/stored_rows.py", "(0 if places is None else places)", "0", "references/test_embeddings.py"),
    Mutant("a fold is judged by all labels", "references/kernel_fit.py", "jnp.subtract, whole, one", "jnp.add, whole, 0 * one", "references/test_kernel.py"),
    Mutant("folds are judged by each other's fit", "references/kernel_fit.py", "which[:, None, None]", "(which[:, None, None] + 1) % len(weights)", "references/test_kernel.py"),
    Mutant("padded rows are fitted to", "references/kernel_fit.py", "(np.arange(len(at)) < valid)", "(np.arange(len(at)) >= 0)", "references/test_kernel.py"),
    Mutant("a kernel reference of any price", "train/economics.py", "price > UNPROVEN", "price > 1e9 * UNPROVEN", "references/test_kernel.py"),
    Mutant("the first size for the largest", "references/kernel.py", "fits[-1] if fits", "fits[0] if fits", "references/test_kernel.py"),
    Mutant("the part a kernel is fitted to is free", "train/charged.py", "names |= config.reference.fitted_parts", "names |= set()", "references/test_kernel.py"),
    Mutant("a filtered pool forgets stored losses", "references/pool_filter.py", 'if "reference" not in experiment.recipe.policy.needs:', "if True:", "references/test_kernel.py"),
    Mutant("a guess of a weak model is a reason", "train/economics.py", "signal > ENOUGH_SIGNAL", "signal > -1", "train/test_gate.py"),
    Mutant("a guess from few labels is a reason", "train/economics.py", "labels.count >= ENOUGH_LABELS", "labels.count >= 0", "train/test_gate.py"),
    Mutant("class words are compared without the logit scale", "train/zero_shot_pass.py", "logit_scalars(self.params)[0]", "1.0", "references/test_zero_shot.py"),
    Mutant("a reference never sees the rest", "references/trained.py", "train_on=(self.part, *self.also)", "train_on=(self.part,)", "references/test_transfer.py"),
    Mutant("the teacher is not charged", "train/costs.py", "distill=recipe.distill", "distill=False", "train/test_distill.py"),
    Mutant("scorers pay for the full view", "train/build.py", "(starts.scorer, scorer, scorer_view)", "(starts.scorer, scorer, view)", "train/test_updates.py"),
    Mutant("recomputation counted", "cost/ledger.py", "for account in ACCOUNTS))", "for account in costs))", "train/test_loop.py"),
    Mutant("a deciding gate takes no time", "train/gate.py", "with watch.running():\n            learner", "if True:\n            learner", "train/test_loop.py"),
    Mutant("scores that are no numbers pass", "train/delayed.py", "(metrics | extra).items()", "metrics.items()", "train/test_loop.py"),
    Mutant("a damaged checkpoint stays", "checkpoint.py", "self._manager.delete(newer)", "pass", "test_checkpoint.py"),
    Mutant("data position not restored", "train/loop.py", 'return meta["position"]', "return 0", "train/test_loop.py"),
    Mutant("weights of recorded choices forgotten", "core/step.py", 'jnp.asarray(batch.get("weight", ones))', "ones", "test_levels.py"),
    Mutant("scores of any model are read", "references/score_file.py", '("model", model or about["model"])', '("model", about["model"])', "references/test_attach.py"),
    Mutant("a run goes on with other scores", "train/run_folder.py", "        if before != now:\n            raise", "        if False:\n            raise", "references/test_attach.py"),
    Mutant("stored scores are charged", "cost/ledger.py", "(references * ratio + distill)", "(max(references, 1) * ratio + distill)", "test_levels.py"),
    Mutant("a co-trained reference is trained for nothing", "cost/ledger.py", 'costs["reference_train"] = ratio * b * scorer.train', 'costs["reference_train"] = b * scorer.train', "test_levels.py"),
    Mutant("the closed form forgets the window", "cost/ledger.py", "return beta + window * ((r", "return beta + beta * ((r", "test_levels.py"),
    Mutant("stored losses of another sign", "core/observe.py", 'inputs[name] = super_batch["reference_loss"]', 'inputs[name] = -super_batch["reference_loss"]', "references/test_attach.py"),
    Mutant("the co-trained reference sees the sub-batch", "core/step.py", "_train_reference(recipe, state, super_batch)\n    return state, metrics | more", "_train_reference(recipe, state, sub_batch)\n    return state, metrics | more", "references/test_attach.py"),
    Mutant("a reference scores what it was trained on", "references/crossfitted.py", "scored_by = 1 - folds", "scored_by = folds", "references/test_attach.py"),
    Mutant("the second reference's scores are free", "references/crossfitted.py", "models_scoring = splits.FOLDS", "models_scoring = 1", "references/test_attach.py"),
    Mutant("the hardest half is kept", "references/pool_filter.py", "np.argsort(losses, kind", "np.argsort(-losses, kind", "references/test_attach.py"),
    Mutant("first layer's input gradient charged", "cost/flops.py", "3 * self.forward - self.first", "3 * self.forward", "models/test_vit.py"),
    Mutant("attention counted once", "cost/flops.py", "2 * 2.0 * queries * keys * width", "2.0 * queries * keys * width", "models/test_vit.py"),
    Mutant("smoothing forgotten", "core/losses.py", "-(1.0 - smoothing) * hit - smoothing", "-hit - 0 * smoothing", "core/test_losses.py"),
    Mutant("a damaged record shifts the ids", "data/sources/shards.py", "ids = np.where(has, stored, contents.beside_stored(ids))", "return Ids(ids, by, others)", "data/sources/test_array_record.py"),
    Mutant("an old index is trusted", "data/sources/index.py", 'if _stored_array(archive, "stamp", "|u1").tobytes().decode() != stamp:', "if False:", "data/sources/test_webdataset.py"),
    Mutant("the sources of a mixture share their ids", "data/sources/mixture.py", "source.ids | np.int64(n << INDEX_BITS)", "source.ids | np.int64(n)", "data/sources/test_mixture.py"),
    Mutant("a mixture starts anew in every block", "data/order.py", "order.positions(block * len(places), len(places))", "order.positions(0, len(places))", "data/sources/test_mixture.py"),
    Mutant("prepare holds out by place", "data/splits.py", "hash64(0x401D, ids) <", "hash64(0x401D, np.arange(len(ids)) + len(ids)) <", "test_prepare.py"),
    Mutant("a damaged copy is read", "data/sources/cache.py", 'or checksum != zlib.crc32(content).to_bytes(_SUM, "big")', "or checksum != checksum", "data/sources/test_remote.py"),
    Mutant("copies above the limit stay", "data/sources/cache.py", "elif total <= least:", "elif total <= 2 * least:", "data/sources/test_remote.py"),
    Mutant("an outage costs an example", "data/sources/array_record.py", "reader = self.of(number)  # whose errors are not those of one record\n        try:\n", "try:\n            reader = self.of(number)\n", "data/sources/test_remote.py"),
    Mutant("groups are read in the order of storage", "data/order.py", "rows[permutation(len(rows), self.seed, epoch, group)]", "rows", "data/test_order.py"),
    Mutant("a row that is left out is taken", "data/rows.py", 'places, side="right")', 'places, side="left")', "data/test_rows.py"),
    Mutant("an index of other shards is opened", "data/sources/catalog.py", 'if about["stamp"] != stamp:', "if False:", "data/sources/test_catalog.py"),
    Mutant("a key in two shards is one example", "data/sources/catalog.py", "            if keys is not None:\n                rows = shared(made)", "            if False:\n                rows = shared(made)", "data/sources/test_catalog.py"),
    Mutant("kept arrays of another split", "data/sources/on_disk.py", 'self.catalog.kept(f"{self.content} {key}", make)', 'self.catalog.kept("", make)', "data/sources/test_catalog.py"),
    Mutant("a shard without a column shifts it", "data/sources/catalog.py", "            self.columns[name].add_missing(count)", "            pass", "data/sources/test_catalog.py"),
    Mutant("codes are not those of the classes", "data/sources/columns.py", "table[order] = np.arange(len(values))", "table[:] = order", "data/sources/test_catalog.py"),
    Mutant("workers write each other's pieces", "storage/workers.py", "number % self.count == self.index", "number % self.count >= 0", "storage/test_workers.py"),
    Mutant("a lock that all may hold", "storage/workers.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", "data/sources/test_journal.py"),
    Mutant("a worker does what another is doing", "curation/sharing.py", "if not self._others_do(number)]", "if number >= 0]", "curation/test_sharing.py"),
    Mutant("the last step forgets pieces", "references/pair_pieces.py", "(piece := self.pieces.load(names[number])) is None", "(piece := self.pieces.load(names[number])) is None or number == 1", "references/test_embeddings.py"),
    Mutant("finished shards are forgotten", "data/sources/preparation.py", "if shard[0] not in there", "if shard[0]", "test_prepare.py"),
    Mutant("augmentation by place", "data/augment.py", "keys = example_keys(jax.random.fold_in(key, 2), ids, epoch)", "keys = jax.random.split(key, len(ids))", "data/test_augment.py"),
    Mutant("partners by place", "data/augment.py", "jnp.zeros_like(order).at[order].set(jnp.roll(order, -1))", "jnp.roll(jnp.arange(len(order)), -1)", "data/test_augment.py"),
    Mutant("joint selection forgets the columns", "core/pair_gains.py", "(sums[2 * n] + sums[2 * n + 1])", "sums[2 * n]", "test_joint.py"),
    Mutant("joint selection draws twice", "core/select.py", "return (logits + gains(new)).at[new].set(-jnp.inf)", "return logits + gains(new)", "test_joint.py"),
    Mutant("the reference is a copy of the online model", "core/pair_scores.py", "SigmoidPairScores(getattr(inputs, model), inputs.reference,", "SigmoidPairScores(getattr(inputs, model), getattr(inputs, model),", "test_joint.py"),
    Mutant("pairs of other texts as own", "core/pair_scores.py", "outputs.scale[0] * negative_dot - outputs.bias[0]", "outputs.scale[0] * negative_dot + outputs.bias[0]", "test_joint.py"),
    Mutant("one pass for losses of pairs", "core/gradients.py", "if not model.pairwise:", "if True:", "core/test_gradients.py"),
    Mutant("captions by place", "data/captions.py", "hash64(0xCA97, ids, epochs)", "hash64(0xCA97, np.arange(len(ids)), epochs)", "tasks/test_captions.py"),
    Mutant("ties at the top", "evaluators/retrieval.py", "((scores == own).sum(axis=1) - 1) / 2", "0 * ((scores == own).sum(axis=1) - 1) / 2", "evaluators/test_retrieval.py"),
    Mutant("heads of published weights mixed", "models/weights/forms.py", "arrays[0].reshape(*arrays[0].shape[:-1], tower.heads, -1)", "arrays[0].reshape(*arrays[0].shape[:-1], -1, tower.heads)", "models/weights/test_big_vision.py"),
    Mutant("loss of pairs among all candidates", "core/reuse.py", "model, outputs, selected, weights", "model, outputs, selected, jnp.ones_like(weights)", "core/test_reuse.py"),
    Mutant("the average starts slowly", "core/optim.py", "(1.0 + step) / (10.0 + step)", "1.0 + 0 * step", "core/test_step.py"),
    Mutant("a fused step averages nothing", "core/step.py", "state = _with_learner(recipe, state, learner)\n    state, more", "state = replace(state, learner=learner, step=state.step + 1)\n    state, more", "core/test_step.py"),
    Mutant("scores centred over all classes", "core/scores.py", "(sums / jnp.maximum(counts, 1.0))[classes]", "jnp.mean(values)", "core/test_scores.py"),
    Mutant("the teacher sees another view", "core/step.py", "recipe.reference_params(state), seen, False)", "recipe.reference_params(state), batch, True)", "core/test_distillation.py"),
    Mutant("soft gradients fall with the temperature", "core/losses.py", "-(temperature**2) * ", "-1.0 * ", "core/test_distillation.py"),
    Mutant("checksums are not compared", "checkpoint.py", 'if checksums[name]["sha256"] != entry["sha256"]:', 'if False:', "test_checkpoint.py"),
    Mutant("weights that are not finite are restored", "checkpoint.py", 'return restored, bad and f"{bad} is not finite"', "return restored, None", "test_checkpoint.py"),
    Mutant("the first checkpoint may take an hour", "train/save_clock.py", "self._limit = FIRST_SAVE if first else LATER_SAVES", "self._limit = LATER_SAVES", "test_checkpoint.py"),
    Mutant("the final line is doubled", "metrics.py", "if _identity(row) in self._there:", "if False:", "test_metrics.py"),
    Mutant("files are written in place", "metrics.py", "temporary = path.with_name(", "temporary = path or path.with_name(", "test_metrics.py"),
    Mutant("an empty variable is a launcher", "distributed/launchers.py", 'if all(_variable(name) for name in _SLURM)', 'if all(name in os.environ for name in _SLURM)', "test_distributed.py"),
    Mutant("rank 0 is always right", "distributed/exchange.py", "usual = usual if 2 * often > len(values) else values[0]", "usual = values[0]", "test_distributed.py"),
    Mutant("a second signal waits", "train/signals.py", "if self._received:", "if False:", "train/test_signals.py"),
    Mutant("recorded epochs forgotten", "references/replay.py", "return self.rows[position // count], self.choices.epochs[position // count]", "return self.rows[position // count], 0 * self.choices.epochs[position // count]", "test_levels.py"),
    Mutant("the stand-in is any row", "data/sources/on_disk.py", "alike = np.flatnonzero(labels == labels[row])", "alike = np.arange(len(labels))", "data/test_damage.py"),
    Mutant("epochs repeat their order", "data/order.py", "left ^ (hash64(self.seed, epoch, turn, right) & mask)", "left ^ (hash64(self.seed, 0 * epoch, turn, right) & mask)", "data/test_order.py"),
    Mutant("a look costs nothing", "train/economics.py", "budget - made * look", "budget", "train/test_gate.py"),
    Mutant("an unfinished summary counts as complete", "train/loop.py", 'if summary is None or not summary["complete"]:', "if summary is None:", "train/test_loop.py"),
    Mutant("any object is the listed one", "storage/commits.py", "if digest != part.sha256:", "if False:", "storage/test_mirror.py"),
    Mutant("the first writer wins silently", "storage/mirror.py", "if theirs is None or (theirs.number, theirs.writer)", "if False and (theirs.number, theirs.writer)", "storage/test_mirror.py"),
    Mutant("segments are written over", "storage/mirror.py", "same = leading(io.BytesIO(content), before)", "same = list(before)", "storage/test_mirror.py"),
    Mutant("what is refused is tried again", "storage/addresses.py", "return code in (408, 429) or code >= 500", "return True", "storage/test_addresses.py"),
    Mutant("a failed upload lets the run go on", "train/signals.py", "return self._requested or self._failed()", "return self._requested", "train/test_buckets.py"),
    Mutant("batches of an evaluation are no progress", "evaluators/batches.py", "    _reported.get()()\n", "", "train/test_watchdog.py"),
    Mutant("a save is not watched", "train/loop.py", '            with self.watchdog.during("a save"):\n                self._save()\n            if complete', "            self._save()\n            if complete", "train/test_watchdog.py"),
    Mutant("a folder is made before credentials are asked for", "storage/mirror.py", "check_login(address)  # Before", "pass  # Before", "storage/test_addresses.py"),
    Mutant("an embedded reference is planned for free", "plan/cost_model.py", "self.prefilter_flops + self.pass_flops + self.reference_pass_flops", "self.prefilter_flops + self.pass_flops", "references/test_zero_shot.py"),
    Mutant("a failed upload stops one process only", "train/signals.py", "os.kill(os.getpid(), signal.SIGTERM)  # JAX tells all.", "pass", "train/test_signals.py"),
    Mutant("random keys come back as numbers", "distributed/whole.py", "return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(target))", "return placed", "test_whole.py"),
    Mutant("any rectangle of chips is a slice", "plan/topology.py", " and shape in known", "", "plan/test_pod_actors.py"),
    Mutant("stored losses of another split", "references/stored.py", 'parts = f"{config.split}, ', 'parts = f"', "data/sources/test_catalog.py"),
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
        for part in ("active_learning", "tests", "configs", "docs", "experiments"):
            without = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(ROOT / part, copy / part, ignore=without)
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
