"""Config files that are wrong: one line with the file and the line number."""

import sys

import pytest

from active_learning.config import ConfigError, from_flags

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # absl
GOOD = """
from active_learning.config import section
from active_learning.data.sources.arrays import Arrays
from active_learning.models import MLP
from active_learning.settings import Config, Optim

def get_config():
    config = section(Config, data=section(Arrays), learner=section(MLP), scorer=section(MLP))
    {line}
    return config
"""


def refused(tmp_path, text: str, *flags: str) -> str:
    sys.modules.pop("config_config", None)  # absl keeps the last file
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        from_flags([f"--config={file}", *flags])
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message.replace(str(file), "FILE")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}['nope']", "FILE: line 9: KeyError: 'nope'"),
        ("1 / 0", "FILE: line 9: ZeroDivisionError: division by zero"),
        ("import nosuch", "FILE: line 9: ModuleNotFoundError: No module named 'nosuch'"),
        ("raise SystemExit(3)", "FILE: line 9: exits with 3 instead of returning a config"),
        ("return {'a': 1}", "config: get_config() must return section(Config, ...), got dict"),
        (
            "return section(Optim)",
            "config: get_config() must return section(Config, ...), got Optim",
        ),
        ("return None", "--config=FILE: get_config() returned None; return the config"),
        ("config.optim = None", "config.optim=None: expected a Optim (FILE, line 9)"),
        (
            "config.optim.b2 = -1.0",
            "config.optim.b2=-1.0: must be at least 0.0 (FILE, line 9)",
        ),
    ],
)
def test_the_line_is_named(tmp_path, line, message):
    assert refused(tmp_path, GOOD.replace("{line}", line)) == message


@pytest.mark.parametrize("line", ["config.select = 5", "config.optim.learning_rate = 'x'"])
def test_values_that_the_library_refuses(tmp_path, line):
    message = refused(tmp_path, GOOD.replace("{line}", line))
    assert message.startswith("flag --config=FILE: line 9: TypeError: Could not override field")


def test_the_line_is_named_in_a_folder_that_is_called_as_the_package(tmp_path):
    clone = tmp_path / "active_learning"
    clone.mkdir()
    text = GOOD.replace("{line}", "import nosuch")
    assert refused(clone, text).startswith("FILE: line 9: ModuleNotFoundError")


def test_a_file_that_is_no_python(tmp_path):
    assert refused(tmp_path, "def get_config(:").startswith("FILE: line 1: ")


def test_a_file_without_the_function(tmp_path):
    assert refused(tmp_path, "x = 1") == "the file of --config defines no get_config()"


def test_no_file(tmp_path):
    for path in (tmp_path / "none.py", tmp_path):
        with pytest.raises(ConfigError, match=r"no such file$"):
            from_flags([f"--config={path}"])


def test_a_value_of_the_command_line_is_not_looked_for_in_the_file(tmp_path):
    text = GOOD.replace("{line}", "config.batch_size = 4")
    assert refused(tmp_path, text, "--config.batch_size=-1") == (
        "config.batch_size=-1: must be at least 1"
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.optim.learning_rat=1", "config.optim.learning_rat: no such key; did you mean"),
        ("--config.optim.foo=1", "config.optim.foo: no such key; flags replace keys"),
        ("--config.foo.bar=1", "config.foo: no such key; flags replace keys that the config has"),
        ("--config.split.parts.more=1", "config.split.parts.more: no such key"),
        ("--config.reference.size=tiny", "config.reference.size: no key of kind 'trained'; known"),
    ],
)
def test_a_flag_for_a_key_that_is_not_there_is_named(tmp_path, flag, message):
    text = GOOD.replace("{line}", "pass")
    assert refused(tmp_path, text, flag).startswith(message)


def test_a_flag_for_a_key_of_the_kind_that_is_chosen_is_taken(tmp_path):
    sys.modules.pop("config_config", None)  # absl keeps the last file
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace("{line}", "config.reference.kind = 'kernel'"))
    config, _ = from_flags([f"--config={file}", "--config.reference.size=tiny"])
    assert config.reference.size == "tiny"
