import subprocess
import sys

import pytest

import understudy


@pytest.mark.parametrize("name", understudy.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert callable(getattr(understudy, name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        understudy.nothing  # noqa: B018


def test_the_help_loads_no_room() -> None:
    heavy = ("torch", "onnxruntime", "fastapi", "sklearn")
    code = f"import sys; import understudy.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
