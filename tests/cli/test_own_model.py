"""A pool of a model of the user's own is used only where the user names the code that it runs."""

import json
import shutil

import pytest

from pdtool.cli.main import app
from pdtool.errors import UsageError


@pytest.mark.parametrize("command", ["export", "profile", "evaluate"])
def test_the_commands_that_read_a_pool_take_the_user_s_word(workshop, tmp_path, monkeypatch, command):
    (tmp_path / "ownlenet.py").write_text(
        "from pdtool.compress.models import ModelSpec, build\n"
        "def make(classes): return build(ModelSpec.parse(f'lenet5:classes={classes}'))\n"
    )
    monkeypatch.chdir(tmp_path)
    pool = tmp_path / "pool"
    shutil.copytree(workshop / "pool", pool)
    document = json.loads((pool / "pool.json").read_text())
    (pool / "pool.json").write_text(json.dumps(document | {"model": "ownlenet:make:classes=10,input=1x32x32"}))
    arguments = {
        "export": ["export", str(pool), "--out", "out"],
        "profile": ["profile", str(pool), "--runs", "1", "--out", "out.json"],
        "evaluate": ["evaluate", str(workshop / "bundle"), "--pool", str(pool), "--data", "digits"]
        + ["--attack", "fgsm", "--limit", "20", "--out", "out"],
    }[command]
    with pytest.raises(UsageError, match="say so with --model ownlenet:make"):
        app([*arguments, "--quiet"], standalone_mode=False)
    app([*arguments, "--quiet", "--model", "ownlenet:make"], standalone_mode=False)
    assert (tmp_path / "out").is_dir() or (tmp_path / "out.json").is_file()
