"""Decision tables: streaming, batch and recorded forms agree on any table, and more evidence never un-flags."""

from itertools import product

import numpy as np
import pytest

from pdtool.artifacts import KINDS
from pdtool.calibration.table import CLEAR, CONTINUE, FLAG, DecisionTable, GradedTable, SequentialTest, Table, replay


def random_counts(rng, members, after_change=False):
    """Any table for label changes."""
    flags, clears = [], []
    for n in range(1, members + 1):
        flag = int(rng.integers(0, n + 2))
        clear = flag - 1 if n == members else int(rng.integers(-1, flag)) if rng.random() < 0.5 else -1
        flags.append(None if flag > n else flag)
        clears.append(None if clear < 0 else clear)
    return DecisionTable(tuple(flags), tuple(clears), after_change)


def random_means(rng, members, mixed=False):
    """Any table for graded evidence; some of its bounds lie exactly on means that occur."""
    above, below = [], []
    for n in range(1, members + 1):
        low, high = np.sort(rng.choice([rng.random(2), rng.integers(0, n + 1, 2) / n]))
        above.append(float(high) if rng.random() < 0.6 else None)
        below.append(float(low) if rng.random() < 0.6 else None)
    last = float(rng.random())
    kinds = tuple(rng.choice(KINDS, members)) if mixed else None
    return GradedTable((*above[:-1], last), (*below[:-1], last), kinds)


def random_evidence(rng, table, frames):
    chance = rng.random((frames, 1))
    changed = rng.random((frames, table.max_models)) < chance
    if isinstance(table, DecisionTable):
        return changed
    return np.where(rng.random(changed.shape) < 0.5, changed, rng.random(changed.shape))


def tables(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        members = int(rng.integers(1, 13))
        yield rng, random_counts(rng, members)
        yield rng, random_counts(rng, members, after_change=True)
        yield rng, random_means(rng, members)
        yield rng, random_means(rng, members, mixed=True)


def one_by_one(table: Table, votes) -> tuple[bool, int]:
    """The definition: ask members until the streaming test decides."""
    test = SequentialTest(table)
    for vote in votes:
        if (decision := test.update(vote)) != CONTINUE:
            return decision == FLAG, test.models_used
    raise AssertionError("the test never decided")


def in_waves(table: Table, evidence):
    """As the device does it: member after member, each on the frames that are still open."""
    flagged, used = np.zeros(len(evidence), dtype=bool), np.zeros(len(evidence), dtype=np.int64)
    left = np.arange(len(evidence))
    for n in range(1, table.max_models + 1):
        decision = table.decide(n, table.running(evidence[left, :n])[:, -1], evidence[left, n - 1])
        done = decision != CONTINUE
        flagged[left[done]], used[left[done]] = decision[done] == FLAG, n
        left = left[~done]
    assert len(left) == 0
    return flagged, used


def test_streaming_waves_and_replay_agree_on_any_table():
    for rng, table in tables(60, seed=0):
        evidence = random_evidence(rng, table, 60)
        flagged, used = replay(table, evidence)
        assert [*zip(flagged, used, strict=True)] == [one_by_one(table, votes) for votes in evidence]
        again_flagged, again_used = in_waves(table, evidence)
        assert (again_flagged == flagged).all()
        assert (again_used == used).all()
        assert used.min() >= 1
        assert used.max() <= table.max_models


def test_more_evidence_never_turns_a_flag_into_a_clear():
    """For every table but those that look only after a change: of these, only what `compile_mmt` makes (`test_mmt`)."""
    for rng, table in tables(100, seed=1):
        if isinstance(table, DecisionTable) and table.after_change:
            continue
        evidence = random_evidence(rng, table, 200)
        raised = np.maximum(evidence, random_evidence(rng, table, 200) * (rng.random(evidence.shape) < 0.3))
        flagged, _ = replay(table, evidence)
        after, _ = replay(table, raised)
        assert not (flagged & ~after).any()


def test_the_first_decision_counts():
    """By hand: clears at 1 although more changes follow, flags at 2, goes on where neither holds."""
    table = DecisionTable(flag_at=(None, 2, 2), clear_at=(0, None, 1))
    votes = np.array([[0, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 1]], dtype=bool)
    flagged, used = replay(table, votes)
    assert flagged.tolist() == [False, True, False, True]
    assert used.tolist() == [1, 2, 3, 3]
    means = GradedTable(flag_above=(0.8, 0.5), clear_below=(0.25, 0.5))
    flagged, used = replay(means, np.array([[0.25, 1.0], [0.8, 0.2], [0.81, 0.0], [0.5, 0.6]]))
    assert flagged.tolist() == [False, False, True, True]  # the bounds themselves clear
    assert used.tolist() == [1, 2, 1, 2]


def test_replay_asks_the_first_columns_only():
    table = DecisionTable(flag_at=(None, 2), clear_at=(None, 1))
    votes = np.array(list(product((False, True), repeat=3)))
    assert (replay(table, votes)[0] == (votes[:, 0] & votes[:, 1])).all()


def test_counts_become_a_table_and_back():
    table = DecisionTable.of(np.array([2, 2, 2]), np.array([-1, 0, 1]))
    assert table == DecisionTable(flag_at=(None, 2, 2), clear_at=(None, 0, 1))
    assert [table.decide(2, np.array([z]), np.array([True]))[0] for z in range(3)] == [CLEAR, CONTINUE, FLAG]


def test_no_update_after_a_decision():
    test = SequentialTest(DecisionTable(flag_at=(1,), clear_at=(0,)))
    assert test.update(True) == FLAG
    with pytest.raises(ValueError, match="decided already"):
        test.update(True)
    assert test.models_used == 1


@pytest.mark.parametrize("bad", [float("nan"), -0.01, 1.01, float("inf")])
def test_evidence_that_is_no_share_is_refused(bad):
    table = GradedTable(flag_above=(None, 0.5), clear_below=(None, 0.5))
    with pytest.raises(ValueError, match=r"evidence in \[0, 1\]"):
        SequentialTest(table).update(bad)
    with pytest.raises(ValueError, match=r"evidence in \[0, 1\]"):
        replay(table, np.array([[0.1, 0.1], [0.1, bad]]))


def test_votes_that_are_too_few_are_refused():
    table = DecisionTable(flag_at=(None, 1), clear_at=(None, 0))
    with pytest.raises(ValueError, match="asks up to 2"):
        replay(table, np.zeros((3, 1), dtype=bool))


def test_no_frames_no_decisions():
    flagged, used = replay(DecisionTable(flag_at=(1,), clear_at=(0,)), np.zeros((0, 1), dtype=bool))
    assert len(flagged) == len(used) == 0
