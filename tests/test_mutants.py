"""Every fault of `make mutants` can be applied: its line is there exactly once, and so is the
test that must catch it.
"""

from pathlib import Path

import pytest

from tests.mutants import MUTANTS, faulty


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_can_be_applied(mutant):
    compile(faulty(mutant), mutant.file, "exec")
    assert (Path(__file__).parent / mutant.tests).is_file()


def test_names_tell_faults_apart():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
