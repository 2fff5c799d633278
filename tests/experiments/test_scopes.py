"""Shares by named scope from a program's text and the events of its trace."""

import pytest

from experiments.scopes import scope_of, shares_of

TEXT = """
  %dot.1 = f32[2] dot(%a, %b), metadata={op_name="jit(train_step)/learner/jvp(ViT)/dot_general" id=1}
  %fusion.2 = f32[2] fusion(%a), metadata={op_name="jit(train_step)/score_online/while/body/learner"}
  %copy.3 = f32[2] copy(%a)
  %while.4 = f32[2] while(%a), metadata={op_name="jit(train_step)/score_online/while"}
"""


def test_shares_by_hand():
    def event(name, microseconds):
        return {"name": name, "dur": microseconds, "args": {"hlo_op": name}}

    events = [
        event("dot.1", 30.0),
        event("dot.1", 30.0),
        event("fusion.2", 20.0),
        event("copy.3", 20.0),
    ]
    events += [
        event("while.4", 500.0),
        {"name": "python", "dur": 900.0, "args": {}},
        {"name": "a mark"},
    ]
    assert shares_of(TEXT, events) == {
        "learner": pytest.approx(0.6), "score_online": pytest.approx(0.2), "rest": pytest.approx(0.2)
    }  # fmt: skip
    assert shares_of(TEXT, []) == {}


def test_the_first_scope_counts():
    assert scope_of("jit(train_step)/score_reference/ViT/learner") == "score_reference"
    assert scope_of("jit(train_step)/vmap(jit(_threefry))") == "rest"
