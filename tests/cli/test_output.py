"""What is printed is what was given: names of folders hold whatever people like."""

import pytest

from pdtool.cli.output import table


@pytest.mark.parametrize("name", ["b[red]", "[/x]", "[bold]a[/bold]", "a\\[b]\\", ":smile:"])
def test_a_table_shows_brackets_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table(f"title {name}", (f"head {name}", "n"), [(f"cell {name}", f"value {name}")])
    out = capsys.readouterr().out
    for what in ("title", "head", "cell", "value"):
        assert f"{what} {name}" in out


def test_the_last_rows_stand_apart(capsys: pytest.CaptureFixture[str]) -> None:
    table("t", ("a", "b"), [("1", "2"), ("3", "4")], [("sum", "6")])
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines if line[0] in "│├"] == ["│", "│", "├", "│"]
