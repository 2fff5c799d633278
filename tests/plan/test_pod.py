"""The plan of a TPU slice: on emulated devices what can be asked there, by hand what cannot."""

import dataclasses
import re
from functools import partial

import jax
import pytest

from active_learning.config import ConfigError
from active_learning.core import sharding
from active_learning.core.step import uniform_step
from active_learning.models import MLP
from active_learning.plan import __main__ as plan
from active_learning.plan import hlo, pod, pod_lines, topology
from active_learning.plan.abstract import abstract_batch, build_abstract
from active_learning.references import Trained
from active_learning.settings import Select
from active_learning.train.build import abstract_state
from tests import world

pytestmark = pytest.mark.filterwarnings(
    "ignore:the load_module:DeprecationWarning"
)  # ml_collections

TEXT = """
HloModule jit_train_step

%region.1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%a, %b)
}

%fused.2 (p: bf16[4,8]) -> bf16[16,8] {
  ROOT %all-gather.9 = bf16[16,8]{1,0:T(8,128)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, frontend_attributes={chain_id="3"}, metadata={op_name="jit(train_step)/learner/jvp(ViT)/while/body/dot"}
}

%fused.3 (p: bf16[4,8]) -> bf16[16,8] {
  ROOT %all-gather.8 = bf16[16,8]{1,0:T(8,128)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, frontend_attributes={chain_id="3"}, metadata={op_name="jit(train_step)/learner/jvp(ViT)/while/body/dot"}
}

%body.4 (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %f = bf16[16,8] fusion(%p), kind=kCustom, calls=%fused.2
  %g = bf16[16,8] fusion(%f), kind=kCustom, calls=%fused.3
  %r = (f32[8]{0}, f32[8,4]{1,0}) all-reduce(%x, %y), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%region.1, metadata={op_name="jit(train_step)/learner/transpose(jvp(ViT))/while/body/dot"}
}

%cond.5 (t: (s32[], f32[8])) -> pred[] {
  %c = s32[]{:T(128)} constant(24)
  %i = s32[] get-tuple-element(%t), index=0
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}

%ring.8 (t: (u32[], bf16[8])) -> (u32[], bf16[8]) {
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%j, %two)
  %there.1 = (bf16[64,32]{1,0}, bf16[64,32]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%q), channel_id=9, source_target_pairs={{0,1},{1,0}}, metadata={op_name="jit(train_step)/learner/transpose(jvp(ViT))/while/body/dot"}
  ROOT %tuple.1 = (bf16[64,32], u32[]) tuple(%done, %next)
}

%more.9 (t: (bf16[8], u32[])) -> pred[] {
  %eight = u32[]{:T(128)} constant(8)
  %j.1 = u32[]{:T(128)} get-tuple-element(%t), index=1
  ROOT %lt.3 = pred[] compare(%j.1, %eight), direction=LT
}

%rounds.6 (t: (s32[], u8[8])) -> (s32[], u8[8]) {
  %all_to_all.1 = u8[8,3,3]{2,1,0} all-to-all(%z), channel_id=1, replica_groups=[1,8]<=[8], metadata={op_name="jit(train_step)/take/shard_map/while/body/all_to_all"}
}

%more.7 (t: (s32[], u8[8])) -> pred[] {
  ROOT %lt.2 = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (s: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%cond.5, body=%body.4, metadata={op_name="jit(train_step)/learner/while"}
  %x = (bf16[8], u32[]) while(%y), condition=%more.9, body=%ring.8
  %v = (s32[], u8[8]) while(%u), condition=%more.7, body=%rounds.6
  %all-gather-start.1 = (f32[2]{0}, f32[16]{0}) all-gather-start(%s), channel_id=3, replica_groups=[1,8]<=[8], metadata={op_name="jit(train_step)/select/gather"}
  ROOT %reduce-scatter.1 = f32[2]{0} reduce-scatter(%s), channel_id=4, replica_groups=[2,4]<=[8], to_apply=%region.1, metadata={op_name="jit(train_step)/learner/add"}
}
"""


def test_collectives_are_read_with_their_loops_groups_and_scopes():
    found = {c.kind if c.kind != "all-gather" else c.scope: c for c in hlo.collectives(TEXT)}
    assert len(list(hlo.collectives(TEXT))) == 6  # what is carried out in two fusions is one
    of = hlo.Collective
    assert found["learner"] == of("all-gather", 16 * 8 * 2, 24, "learner", 4)
    assert found["all-reduce"] == of("all-reduce", 4 * (8 + 32), 24, "learner", 4)
    assert found["all-to-all"] == of(
        "all-to-all", 72, 0, "take", 8
    )  # its length is known when it runs
    assert found["collective-permute"] == of(
        "collective-permute", 64 * 32 * 2, 4, "learner", 2
    )  # its counter goes by twos
    assert found["select"] == of("all-gather", 64, 1, "select", 8)
    assert found["reduce-scatter"] == of("reduce-scatter", 8, 1, "learner", 4)


def test_bytes_on_the_wire_of_ring_algorithms():
    wire = lambda kind, size, group: hlo.Collective(kind, size, 1, "", group).wire
    assert wire("all-reduce", 100, 4) == 150
    assert wire("all-gather", 100, 4) == wire("all-to-all", 100, 4) == 75
    assert wire("reduce-scatter", 25, 4) == 75
    assert wire("collective-permute", 100, 4) == 100


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = world.config(
        world.write_arrays(tmp_path_factory.mktemp("arrays")),
        learner=MLP(width=64, depth=1),
        fsdp=2,
    )
    return build_abstract(config, (8, 8, 3), world.CLASSES, 400, jax.devices())


@pytest.fixture(scope="module")
def found(run):
    return pod.compile_step(run)


def test_a_step_is_planned_without_data_or_state(run, found):
    metrics = pod.plan_metrics(run, found, 0.5)
    assert metrics["chips"] == 8 and metrics["mesh"] == {"data": 4, "fsdp": 2}
    assert 8 * sum(metrics["flops"].values()) == pytest.approx(sum(run.costs.values()))
    assert metrics["flops_over_uniform"] == pytest.approx(
        sum(run.costs.values()) / sum(run.uniform_costs.values())
    )
    assert metrics["compute_seconds"] is None  # nobody's sheet for this device
    rows = [c for c in found.collectives if c.scope == "take" and c.bytes == 8 * 8 * 8 * 3]
    assert len(rows) == 1
    of_selection = [c for c in found.collectives if c.scope in pod.SELECTION]
    assert metrics["selection_moved_bytes"] == pytest.approx(
        sum(c.wire * max(1, c.times) for c in of_selection)
    )
    assert sum(c.wire for c in of_selection) < metrics["moved_bytes"]
    kernel = 4 * 192 * 64
    assert pod.learner_bytes(run) < 3 * (kernel / 2 + 4 * (64 + 64 * 4 + 4)) + 100


def test_the_rules_are_printed_with_what_they_decide(run):
    text = "\n".join(pod_lines.sharding_lines(run))
    assert "mesh data 4 x fsdp 2" in text
    assert "(kernel|embed)$" in text and "6 of them (0 MiB) in 2 parts along dimension -2" in text


def test_a_step_that_does_not_fit_names_what_would(run, found, monkeypatch):
    mesh = jax.sharding.Mesh(run.mesh.devices.reshape(-1), ("data",))
    config = dataclasses.replace(run.config, fsdp=1)
    whole = dataclasses.replace(run, mesh=mesh, config=config)
    text = pod._too_large(whole, "Used 128.00K of 100.00K hbm")
    assert "needs 0.0 GiB of a cpu's 0.0" in text and "--config.fsdp=2" in text
    monkeypatch.setitem(pod.CHIPS, "cpu", topology.Chip(1 / 2**20, 1.0, 1.0))  # 1 kB
    with pytest.raises(ConfigError, match="GiB too much; would fit: "):
        pod.compile_step(run)


def test_the_compiler_is_understood_in_both_of_its_wordings(run):
    new = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (31.32G) exceeds available HBM (15.75G). HLO module: jit_x."
    )
    assert "needs 31.3 GiB of a cpu's 15.8, 15.6 GiB too much" in pod._too_large(run, new)
    old = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.25G of 15.75G hbm."
    assert "needs 17.2 GiB of a cpu's 15.8, 1.5 GiB too much" in pod._too_large(run, old)
    other = pod._too_large(run, "RESOURCE_EXHAUSTED: no room\nmore")
    assert other == "the step does not fit a cpu: RESOURCE_EXHAUSTED: no room"


def test_a_batch_in_parts_and_a_smaller_one_are_offered(run):
    big = dataclasses.replace(run, config=dataclasses.replace(run.config, batch_size=1024))
    state = pod.learner_bytes(big)
    assert list(pod.remedies(big, over=10e6, needs=state + 40e6)) == [
        "--config.grad_accum_steps=2 (the same batch in 2 parts)",
        "--config.batch_size=768",  # a quarter less
    ]
    assert list(pod.remedies(big, over=50e6, needs=state + 40e6)) == []


def test_remat_is_offered_for_each_model_that_keeps_activations(run):
    from active_learning.models import Text, TwoTower, ViT

    towers = TwoTower(ViT(remat="dots"), Text(remat="full"), image_out=0, text_out=192)
    two = dataclasses.replace(run, learner=towers, scorer=ViT(remat="full"))
    assert list(pod._without_remat(two)) == ["learner.image"]
    first = next(iter(pod.remedies(two, over=1.0, needs=1e9)))
    assert first == "perhaps --config.learner.image.remat=full"


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("v5e:16x16", "v5e:16x16"),
        ("v5litepod-256", "v5e:16x16"),
        ("v5litepod-8", "v5e:2x4"),
        ("v6e-256", "v6e:16x16"),
        ("V6E-64", "v6e:8x8"),
        ("v5p-128", "v5p:4x4x4"),
        ("v5p:4x4x8", "v5p:4x4x8"),
    ],
)
def test_names_of_clouds_are_topologies(name, same):
    assert topology.canonical(name) == same


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("v5e:0x0", "unknown; expected"),
        ("v9:2x2", "unknown; expected"),
        ("pod", "unknown; expected"),
        ("v5litepod-100", "no such slice; v5litepod-N with N one of 1, 4, 8"),
        ("v5e:4x4x4", "v5e has 2 dimensions"),
        ("v5e:32x32", "at most 256 chips"),
        ("v5p:4x4", "v5p has 3 dimensions"),
    ],
)
def test_an_unknown_topology_is_one_line(name, why, capsys):
    assert plan.main(["--config=configs/shapes.py", f"--topology={name}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --topology={name}: ") and re.search(why, line)


LOCK = "ABORTED: Internal error when accessing libtpu multi-process lockfile. Run rm."


@pytest.mark.parametrize(
    ("spec", "message", "why"),
    [
        (None, "", "needs the TPU compiler, pip install"),
        (
            True,
            "INVALID_ARGUMENT: no such name\nmore",
            "refused by libtpu .INVALID_ARGUMENT: no such",
        ),
        (True, LOCK, "another process is using libtpu; wait .* ALLOW_MULTIPLE_LIBTPU_LOAD=1"),
    ],
)
def test_a_compiler_that_is_missing_busy_or_refuses_is_one_line(
    monkeypatch, capsys, spec, message, why
):
    from jax.experimental import topologies

    def refuse(**_):
        raise RuntimeError(message)

    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    assert plan.main(["--config=configs/shapes.py", "--topology=v5e:4x4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: --topology=v5e:4x4: {why}", line)


def test_layers_are_counted_from_one_and_two(run):
    assert pod.count_update(run) is None  # an MLP has no blocks
    from active_learning.models import ViT

    vit = ViT(width=16, depth=3, heads=2, patch=4, scan=True)
    config = dataclasses.replace(
        run.config, learner=vit, select=Select(), reference=Trained(), fsdp=1
    )
    experiment = build_abstract(config, (8, 8, 3), world.CLASSES, 400, jax.devices()[:1])
    counted = pod.count_update(experiment)
    unrolled = dataclasses.replace(config, learner=dataclasses.replace(vit, scan=False))
    experiment = build_abstract(unrolled, (8, 8, 3), world.CLASSES, 400, jax.devices()[:1])
    step = partial(uniform_step, experiment.recipe)
    real = sharding.aot_compile(
        step, abstract_state(experiment), abstract_batch(experiment)
    ).cost_analysis()
    assert counted.flops == pytest.approx(real["flops"], rel=0.01)
    assert counted.memory_traffic == pytest.approx(real["bytes accessed"], rel=0.05)
