"""The command `licenses` in this process, and a vendor's folder that it made."""

import pytest

from licenses.cli import main


@pytest.fixture
def run(capsys):
    """Run the command; gives exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


@pytest.fixture
def site(tmp_path, run):
    """A folder with an evaluation vendor's keys."""
    assert run("keygen", "--out", tmp_path / "keys", "--evaluation")[0] == 0
    return tmp_path
